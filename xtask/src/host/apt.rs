//! Debian packages of any suite and architecture, through apt with a state of its own: nothing is
//! configured or installed on the machine. The mirror is the one that the machine already uses.

use crate::host::dirs;
use crate::host::shell::{output, run, say};
use anyhow::{Context as _, Result, anyhow, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Age at which a package list is fetched again.
const STALE: Duration = Duration::from_secs(24 * 60 * 60);

/// One suite for one architecture.
pub struct Apt {
    dir: PathBuf,
    architecture: &'static str,
}

impl Apt {
    /// `suite` as in a sources.list, `architecture` as Debian names it. Fetches the package list if
    /// there is none or an old one.
    pub fn open(suite: &str, architecture: &'static str) -> Result<Self> {
        let dir = dirs::cache(&format!("apt/{suite}-{architecture}"))?;
        let apt = Self { dir, architecture };
        let stamp = apt.dir.join("fetched");
        let fresh = stamp
            .metadata()
            .and_then(|m| m.modified())
            .is_ok_and(|time| time.elapsed().is_ok_and(|age| age < STALE));
        if !fresh {
            say(format_args!(
                "fetching the package list of Debian {suite} for {architecture}"
            ));
            let source = format!(
                "deb [arch={architecture} signed-by={KEYRING}] {} {suite} main\n",
                mirror()?
            );
            fs::write(apt.dir.join("sources.list"), source)?;
            for below in ["lists/partial", "cache/archives/partial"] {
                fs::create_dir_all(apt.dir.join(below))?;
            }
            output(apt.command("apt-get").args(["-qq", "update"])).map_err(|e| {
                let text = format!("{e:#}");
                let why = text.lines().find(|l| l.starts_with("E: ")).unwrap_or(&text);
                anyhow!("no package list of Debian {suite} for {architecture}: {why}")
            })?;
            fs::write(stamp, "")?;
        }
        Ok(apt)
    }

    /// Unpacks packages of the first of several suites that has them. A mirror that is not in step
    /// may lack the list of a suite, or a package that is in it.
    pub fn unpack_first(
        suites: &[&str],
        architecture: &'static str,
        packages: &[impl AsRef<str>],
        into: &Path,
    ) -> Result<()> {
        let (last, others) = suites.split_last().context("no suite to look in")?;
        let unpack = |suite| Self::open(suite, architecture)?.unpack(packages, into);
        for suite in others {
            match unpack(suite) {
                Ok(()) => return Ok(()),
                Err(e) => say(format_args!("{e:#}; trying the next suite")),
            }
        }
        unpack(last)
    }

    /// An apt command that sees this suite only.
    fn command(&self, program: &str) -> Command {
        let dir = self.dir.display();
        let mut command = Command::new(program);
        for option in [
            format!("APT::Architecture={}", self.architecture),
            format!("APT::Architectures={}", self.architecture),
            // Without root there is nobody to drop privileges to, and with it the cache may be private.
            "APT::Sandbox::User=".into(),
            format!("Dir::Etc::SourceList={dir}/sources.list"),
            "Dir::Etc::SourceParts=/dev/null".into(),
            format!("Dir::State::Lists={dir}/lists"),
            // What is installed on this machine, from other sources, would be preferred.
            "Dir::State::Status=/dev/null".into(),
            format!("Dir::Cache={dir}/cache"),
            "Acquire::Languages=none".into(),
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".into(),
            "Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled=false".into(),
        ] {
            command.args(["-o", &option]);
        }
        command
    }

    /// Names of the packages that match a regular expression.
    pub fn names(&self, pattern: &str) -> Result<Vec<String>> {
        let found = output(
            self.command("apt-cache")
                .args(["search", "--names-only", pattern]),
        )?;
        Ok(found
            .lines()
            .filter_map(|l| l.split_whitespace().next())
            .map(String::from)
            .collect())
    }

    /// The versions of one package, newest first.
    pub fn versions(&self, package: &str) -> Result<Vec<String>> {
        let found = output(self.command("apt-cache").args(["madison", package]))?;
        Ok(found
            .lines()
            .filter_map(|l| l.split('|').nth(1))
            .map(|v| v.trim().to_owned())
            .collect())
    }

    /// Unpacks packages (`name` or `name=version`) into `into`, without installing them.
    pub fn unpack(&self, packages: &[impl AsRef<str>], into: &Path) -> Result<()> {
        let debs = tempfile::tempdir_in(&self.dir)?;
        for package in packages {
            let package = package.as_ref();
            say(format_args!("fetching {package}"));
            run(self
                .command("apt-get")
                .args(["-qq", "download", package])
                .current_dir(&debs))?;
        }
        for deb in fs::read_dir(&debs)? {
            run(Command::new("dpkg-deb")
                .arg("-x")
                .arg(deb?.path())
                .arg(into))?;
        }
        Ok(())
    }
}

/// Makes sure that what a package brings is there: installs it as root, says what to install otherwise.
pub fn need(package: &str, is_there: impl Fn() -> bool) -> Result<()> {
    if is_there() {
        return Ok(());
    }
    if !is_root() {
        bail!("missing: as root, apt-get install --no-install-recommends {package}");
    }
    say(format_args!("installing {package}"));
    install(&[package])?;
    if !is_there() {
        bail!("{package} was installed, but what it is needed for is not there");
    }
    Ok(())
}

/// Installs packages on this machine. Where parts of a newer suite are installed already, its own
/// sources may have none that fit them; then the backports of its release are asked as well.
pub fn install(packages: &[&str]) -> Result<()> {
    let install = |options: &[String]| {
        run(Command::new("apt-get")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .args(options)
            .args(["-qq", "-y", "--no-install-recommends", "install"])
            .args(packages)
            .stdout(Stdio::null()))
    };
    run(Command::new("apt-get").args(["-qq", "update"]))?;
    let Err(first) = install(&[]) else {
        return Ok(());
    };
    let codename =
        output(Command::new("sh").args(["-c", ". /etc/os-release; echo $VERSION_CODENAME"]))?;
    let backports = format!("{}-backports", codename.trim());
    let architecture = output(Command::new("dpkg").arg("--print-architecture"))?;
    say(format_args!("{first:#}; trying with {backports}"));
    let state = dirs::cache(&format!("apt/install-{backports}"))?;
    let mirror = mirror()?;
    let source = [codename.trim(), &backports].map(|suite| {
        format!(
            "deb [arch={} signed-by={KEYRING}] {mirror} {suite} main\n",
            architecture.trim()
        )
    });
    fs::write(state.join("sources.list"), source.concat())?;
    fs::create_dir_all(state.join("lists/partial"))?;
    let dir = state.display();
    let options: Vec<String> = [
        format!("Dir::Etc::SourceList={dir}/sources.list"),
        "Dir::Etc::SourceParts=/dev/null".into(),
        format!("Dir::State::Lists={dir}/lists"),
        format!("APT::Default-Release={backports}"),
    ]
    .into_iter()
    .flat_map(|o| ["-o".to_owned(), o])
    .collect();
    run(Command::new("apt-get")
        .args(&options)
        .args(["-qq", "update"]))?;
    install(&options)
}

/// Debian's own keys, of all current suites.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// The Debian mirror of this machine, from its apt configuration.
fn mirror() -> Result<String> {
    if !Path::new(KEYRING).exists() {
        bail!("{KEYRING} is missing: install the package debian-archive-keyring");
    }
    let list = || {
        output(Command::new("apt-get").args([
            "indextargets",
            "--format",
            "$(ORIGIN) $(LABEL) $(REPO_URI)",
            "Created-By: Packages",
        ]))
    };
    let pick = |text: String| {
        text.lines()
            .find_map(|l| l.strip_prefix("Debian Debian "))
            .map(String::from)
    };
    if let Some(found) = pick(list()?) {
        return Ok(found);
    }
    // The origin of a source is known only after it was fetched for the first time.
    if is_root() {
        run(Command::new("apt-get").args(["-qq", "update"]))?;
        if let Some(found) = pick(list()?) {
            return Ok(found);
        }
    }
    pick(list()?).context(
        "no Debian mirror in the apt configuration that was fetched yet: \
         add one and run `apt-get update`",
    )
}

pub fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    fs::metadata("/proc/self").is_ok_and(|m| m.uid() == 0)
}
