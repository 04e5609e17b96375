//! The reflex and the daemon: what it may do, that the agent has had a look itself, and what it did.

use super::{Daemon, Woken};
use crate::config::{self, ReflexKill};
use crate::domain::DomainId;
use std::time::Duration;

#[cfg(feature = "bpf")]
use {
    crate::act::reflex::{Orders, PINS, Reflex, deeds_but, remove_all_but},
    crate::config::rule,
    crate::sense::tree::PATH,
    crate::tell::words::{Named, Target},
    crate::units::Size,
    lowtide_common::{Deed, Hook, NO_GROUP, REFLEX_WORTH, Request, Row},
    lowtide_judge::{Judged, reflex_marks},
    rustix::param::page_size,
    smol::Async,
    std::mem::MaybeUninit,
    std::os::unix::fs::MetadataExt as _,
};

/// The reflex, where there is one.
#[derive(Default)]
pub(super) struct Guard {
    #[cfg(feature = "bpf")]
    reflex: Option<Async<Reflex>>,
}

#[cfg(feature = "bpf")]
impl Guard {
    /// Wakes when the reflex has done something.
    pub async fn acted(&self) -> Woken {
        match &self.reflex {
            Some(reflex) if reflex.readable().await.is_ok() => Woken::ReflexActed,
            _ => std::future::pending().await,
        }
    }

    /// The agent has a look, and goes on by itself for so long.
    pub fn attend(&self, length: Duration) {
        if let Some(reflex) = &self.reflex {
            reflex.get_ref().attend(length);
        }
    }

    /// A victim of the agent's own is on its way out, for at most so long; zero: not any more.
    pub fn give_time(&self, length: Duration) {
        if let Some(reflex) = &self.reflex {
            reflex.get_ref().give_time(length);
        }
    }

    /// It does nothing until it is armed anew.
    pub fn disarm(&self) {
        if let Some(reflex) = &self.reflex {
            reflex.get_ref().disarm();
        }
    }

    /// It does nothing more, also where it would outlive the agent.
    pub fn end(&mut self) {
        if let Some(reflex) = self.reflex.take() {
            reflex.get_ref().disarm();
            let _ = remove_all_but(None);
        }
    }
}

#[cfg(not(feature = "bpf"))]
impl Guard {
    pub async fn acted(&self) -> Woken {
        std::future::pending::<()>().await;
        Woken::ReflexActed
    }

    pub fn attend(&self, _: Duration) {}

    pub fn give_time(&self, _: Duration) {}

    pub fn disarm(&self) {}

    pub fn end(&mut self) {}
}

#[cfg(not(feature = "bpf"))]
impl Daemon {
    pub(super) fn open_reflex(&mut self, _: bool) {
        let config::Reflex { kill, .. } = self.config.reflex;
        if kill == ReflexKill::On {
            self.log
                .warning(format_args!("no reflex: this lowtide is built without it"));
        }
    }

    pub(super) fn arm_reflex(&mut self) {}

    pub(super) fn refresh_reflex(&mut self) {}

    pub(super) fn on_reflex(&mut self) {
        self.episode(DomainId::SYSTEM, true);
    }
}

#[cfg(feature = "bpf")]
impl Daemon {
    /// Has the reflex that the config asks for, or none; why not is said where it is asked for by
    /// name. The one before, also of an agent that has died, goes when the new one is armed.
    pub(super) fn open_reflex(&mut self, verifier_log: bool) {
        let wanted = self.config.reflex;
        self.tell_of_reflex();
        let before = self.guard.reflex.take();
        let loaded = match wanted.kill {
            ReflexKill::Off => None,
            _ => self.load_reflex(&wanted, verifier_log).map_or_else(
                |why| {
                    let text =
                        format_args!("no reflex, the kernel's own OOM killer is next: {why}");
                    if wanted.kill == ReflexKill::On || wanted.survive {
                        self.log.warning(text);
                    } else {
                        self.log.info(text);
                    }
                    None
                },
                Some,
            ),
        };
        self.guard.reflex = loaded;
        self.arm_reflex();
        self.replace_pinned(before.is_some());
    }

    fn load_reflex(
        &mut self,
        wanted: &config::Reflex,
        verifier_log: bool,
    ) -> Result<Async<Reflex>, Box<dyn std::error::Error>> {
        let Some(rules) = self.surveyor.policy_map() else {
            return Err("it needs the kfunc engine".into());
        };
        let early = wanted.kill == ReflexKill::On;
        let mut reflex = Reflex::open(rules, early, verifier_log)?;
        if wanted.survive
            && let Err(error) = reflex.pin()
        {
            self.log.warning(format_args!(
                "[reflex] survive: {error}: the reflex ends with the agent; \
                 `mount -t bpf none /sys/fs/bpf` before it starts"
            ));
        }
        Ok(Async::new_nonblocking(reflex)?)
    }

    /// What is pinned beside the reflex in force has had its time: what it did is told, and it goes.
    /// `own`: it is this agent's.
    fn replace_pinned(&mut self, own: bool) {
        let reflex = self.guard.reflex.as_ref();
        let kept = reflex.and_then(|reflex| reflex.get_ref().generation());
        for deed in deeds_but(kept) {
            self.log.notice(format_args!(
                "while no agent was there, of the reflex that was left armed:"
            ));
            self.tell_of_deed(&deed);
        }
        match remove_all_but(kept) {
            Ok(true) if !own => self.log.info(format_args!(
                "the reflex that an agent before had left armed is gone"
            )),
            Ok(_) => {}
            Err(error) => self.log.error(format_args!(
                "the reflex that was left armed stays: {error}; `rm -r {PINS}` ends it"
            )),
        }
    }

    /// Lets the reflex act as the config says now.
    pub(super) fn arm_reflex(&mut self) {
        let Some(reflex) = &self.guard.reflex else {
            return;
        };
        let wanted = self.config.reflex;
        let marks = match self.meminfo.read() {
            Ok(memory) => reflex_marks(&self.config.policy, memory.total, memory.swap_total),
            Err(_) => None,
        };
        let orders = Orders {
            marks: marks.filter(|_| wanted.kill != ReflexKill::Off),
            early: wanted.kill == ReflexKill::On,
            patience: Duration::from_millis(wanted.patience_ms.into()),
            budget: wanted.budget.into(),
        };
        let request = self.reflex_request();
        let agent = std::process::id();
        reflex.get_ref().arm(&orders, &request, own_cgroup(), agent);
        self.refresh_reflex();
    }

    /// How the reflex ranks: what has no rule and came after the last survey is not touched.
    fn reflex_request(&self) -> Request {
        Request {
            worth: REFLEX_WORTH,
            classified_up_to: self.surveyor.classified_up_to(),
            fallback: rule(&self.config.policy, NO_GROUP),
            within: 0,
            flags: 0,
            _reserved: 0,
        }
    }

    /// The reflex learns of the cgroups that were made meanwhile.
    pub(super) fn refresh_reflex(&mut self) {
        if self.guard.reflex.is_none() {
            return;
        }
        let fallback = rule(&self.config.policy, NO_GROUP);
        let matcher = &self.config.matcher;
        if let Err(error) = self.surveyor.survey(REFLEX_WORTH, 0, fallback, 0, matcher) {
            self.log.error(format_args!(
                "looking at all cgroups for the reflex: {error}"
            ));
        }
        let request = self.reflex_request();
        if let Some(reflex) = &self.guard.reflex {
            reflex.get_ref().set_request(&request);
        }
    }

    /// The reflex did something: it is told, and looked at what there is left to do.
    pub(super) fn on_reflex(&mut self) {
        self.tell_of_reflex();
        self.episode(DomainId::SYSTEM, true);
    }

    fn tell_of_reflex(&mut self) {
        while let Some(deed) = self
            .guard
            .reflex
            .as_ref()
            .and_then(|r| r.get_ref().next_deed())
        {
            self.tell_of_deed(&deed);
        }
        let stood_down = |reflex: &Async<Reflex>| reflex.get_ref().stood_down();
        if self.guard.reflex.as_ref().is_some_and(stood_down) {
            self.log.warning(format_args!(
                "the reflex had used up its budget of {} kills in 10 s, and waited",
                self.config.reflex.budget
            ));
        }
    }

    fn tell_of_deed(&mut self, deed: &Deed) {
        let victim = Row {
            id: deed.victim,
            usage: deed.usage,
            anon: deed.freed,
            rule: deed.rule,
            ..Row::ZERO
        };
        let mut buffer = [MaybeUninit::uninit(); PATH];
        let named = Named::new(&self.surveyor.tree, &victim, None, &mut buffer);
        let judged = Judged {
            frees: deed.freed,
            ..Judged::new(&victim)
        };
        let what = Target(&self.config.policy, &judged);
        let hook = match deed.hook {
            hook if hook == Hook::Oom as u64 => "with the kernel's OOM killer next",
            hook if hook == Hook::Reclaim as u64 => "in direct reclaim",
            _ => "as the agent did not answer",
        };
        let available = Size(deed.available.saturating_mul(page_size() as u64));
        self.log.notice(format_args!(
            "the reflex killed {named} ({what}) {hook}, available {available}: {} threads signalled, {} not, \
             in {} us",
            deed.signalled,
            deed.refused,
            deed.took_ns / 1_000,
        ));
    }
}

/// cgroup id of the agent's own; 0 where that cannot be told.
#[cfg(feature = "bpf")]
fn own_cgroup() -> u64 {
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let path = own.lines().find_map(|line| line.strip_prefix("0::"));
    let dir = path.and_then(|path| std::fs::metadata(format!("/sys/fs/cgroup{path}")).ok());
    dir.map_or(0, |dir| dir.ino())
}
