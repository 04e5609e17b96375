//! `lowtide doctor --test`: the running agent is shown a shortage that is none of the device's. A cgroup gets a limit of
//! its own, a child fills it, and the agent, told by a drop-in of what is in it, is to end that child and nothing else.

use super::explain;
use super::log::Shown;
use super::status;
use crate::sense::tree::Tree;
use crate::units::Size;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File};
use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Below the root of the cgroups.
const CGROUP: &str = "lowtide-test";
const VICTIM: &str = "victim";
const BYSTANDER: &str = "bystander";
/// Of that cgroup; the device has to have four times as much available.
const LIMIT: u64 = 16 << 20;
/// Read by the agent as long as it is there.
const DROP_IN: &str = "/run/lowtide/config.d/zz-lowtide-test.toml";
const RULES: &str = "[[group]]\nname = \"lowtide-test\"\ncgroups = [\"lowtide-test\"]\ntrigger = \"some 20ms/500ms\"\n\n\
                     [[group]]\nname = \"lowtide-test-victim\"\ncgroups = [\"lowtide-test/victim\"]\nkill = 1000\n\
                     grace = \"0s\"\n";
/// For the agent to read its config anew, and to end the victim.
const PATIENCE: Duration = Duration::from_secs(15);
const PAUSE: Duration = Duration::from_millis(100);

/// Asks on a terminal; false where the answer is no, or there is none to ask on.
pub fn is_agreed() -> io::Result<bool> {
    if !io::stdin().is_terminal() {
        return Ok(false);
    }
    let mut stderr = io::stderr();
    write!(
        stderr,
        "This makes the cgroup /{CGROUP} with a limit of {}, has a child fill it, and watches the running agent\n\
         end that child. The agent reads its config anew before and after ({DROP_IN}).\n\
         Nothing else is touched. Go on? [y/N] ",
        Size(LIMIT)
    )?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// What the agent did, for a person; the error says why nothing is shown by it.
pub fn run() -> io::Result<String> {
    let state = status::ask().map_err(io::Error::other)?;
    if state.dry_run {
        return Err(io::Error::other(
            "the agent that runs only says what it would do (dry run)",
        ));
    }
    let available = state.of_memory("available");
    if available < 4 * LIMIT {
        return Err(io::Error::other(format!(
            "{} available are too little for a test that takes {}",
            Size(available),
            Size(LIMIT)
        )));
    }
    let agent = explain::agent().and_then(Pid::from_raw);
    let agent = agent.ok_or_else(|| io::Error::other("the agent's process is not found"))?;
    let mut trial = Trial::set_up(agent)?;
    trial.reload()?;
    trial.watch()
}

/// What there is for the test alone: taken away when it is dropped.
struct Trial {
    agent: Pid,
    dir: PathBuf,
    children: Vec<Child>,
}

impl Trial {
    fn set_up(agent: Pid) -> io::Result<Self> {
        let trial = Self {
            agent,
            dir: Tree::open()?.mount().join(CGROUP),
            children: Vec::new(),
        };
        // Of a test that was cut short.
        trial.remove();
        make(&trial.dir)?;
        write(&trial.dir.join("memory.max"), &LIMIT.to_string())?;
        let swap = trial.dir.join("memory.swap.max");
        if swap.exists() {
            write(&swap, "0")?;
        }
        write(&trial.dir.join("cgroup.subtree_control"), "+memory")?;
        for name in [VICTIM, BYSTANDER] {
            make(&trial.dir.join(name))?;
        }
        Ok(trial)
    }

    /// Has the agent read what is in the cgroup.
    fn reload(&self) -> io::Result<()> {
        let file = Path::new(DROP_IN);
        if let Some(dir) = file.parent() {
            fs::create_dir_all(dir).map_err(|error| at(dir, &error))?;
        }
        write(file, RULES)?;
        kill_process(self.agent, Signal::HUP)?;
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            thread::sleep(PAUSE);
            let state = status::ask().map_err(io::Error::other)?;
            if state
                .config
                .files
                .iter()
                .any(|file| file.ends_with(DROP_IN))
            {
                return Ok(());
            }
        }
        Err(io::Error::other(
            "the agent has not taken in the rules of the test: it refused its config (`lowtide check`), or runs with \
             --config and reads no drop-ins",
        ))
    }

    /// A process in one of the cgroups, which does `what` when it is told to.
    fn start(&mut self, cgroup: &str, what: &str) -> io::Result<()> {
        let child = Command::new("/bin/sh")
            .args(["-c", &format!("read go; {what}")])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| at(Path::new("/bin/sh"), &error))?;
        let id = child.id();
        self.children.push(child);
        write(&self.dir.join(cgroup).join("cgroup.procs"), &id.to_string())
    }

    fn watch(&mut self) -> io::Result<String> {
        self.start(BYSTANDER, "exec sleep 60")?;
        // It keeps what it reads until the end of a line, which never comes.
        self.start(VICTIM, "exec tail /dev/zero")?;
        let began = Instant::now();
        for child in &mut self.children {
            if let Some(mut input) = child.stdin.take() {
                input.write_all(b"go\n")?;
            }
        }
        let [bystander, victim] = &mut self.children[..] else {
            return Err(io::ErrorKind::Other.into());
        };
        while victim.try_wait()?.is_none() {
            if began.elapsed() > PATIENCE {
                return Err(io::Error::other(format!(
                    "after {} s the agent has not ended what fills the limit",
                    PATIENCE.as_secs()
                )));
            }
            thread::sleep(PAUSE);
        }
        let took = began.elapsed();
        if bystander.try_wait()?.is_some() {
            return Err(io::Error::other(
                "what was beside the victim has ended as well",
            ));
        }
        // What was decided is kept when it is over.
        thread::sleep(5 * PAUSE);
        let state = status::ask().map_err(io::Error::other)?;
        let name = format!("/{CGROUP}/{VICTIM}");
        let is_it = |entry: &&crate::tell::reading::Entry| {
            entry
                .text("victim")
                .is_some_and(|victim| victim.contains(&name))
        };
        let Some(entry) = state.history.iter().rfind(is_it) else {
            return Err(io::Error::other(
                "the child has ended, and not by the agent: the kernel's OOM killer was faster",
            ));
        };
        Ok(format!(
            "The agent saw that {CGROUP} was short, and ended what filled it, {} ms after it began; what was beside it \
             still ran.\n{}",
            took.as_millis(),
            Shown(entry)
        ))
    }

    /// As far as it is there.
    fn remove(&self) {
        let _ = fs::remove_file(DROP_IN);
        let dirs = [
            self.dir.join(VICTIM),
            self.dir.join(BYSTANDER),
            self.dir.clone(),
        ];
        for dir in &dirs {
            // Left behind by a test that was cut short.
            let _ = fs::write(dir.join("cgroup.kill"), "1");
            for _ in 0..20 {
                match fs::remove_dir(dir) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => thread::sleep(PAUSE),
                    _ => break,
                }
            }
        }
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        for child in &mut self.children {
            // It may have ended.
            let _ = child.kill();
            let _ = child.wait();
        }
        self.remove();
        let _ = kill_process(self.agent, Signal::HUP);
    }
}

fn make(dir: &Path) -> io::Result<()> {
    fs::create_dir(dir).map_err(|error| at(dir, &error))
}

/// Into a file of the kernel's, or a new one.
fn write(file: &Path, text: &str) -> io::Result<()> {
    let written = File::create(file).and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|error| at(file, &error))
}

fn at(path: &Path, error: &io::Error) -> io::Error {
    io::Error::other(format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::RULES;

    #[test]
    fn the_rules_of_the_test_can_be_used() {
        let config = crate::config::parse("rules", RULES).unwrap();
        assert!(config.warnings.is_empty(), "{}", config.warnings);
        let kills: Vec<_> = config
            .policy
            .groups
            .iter()
            .map(|group| group.kill)
            .collect();
        assert!(kills.contains(&1000), "{kills:?}");
    }
}
