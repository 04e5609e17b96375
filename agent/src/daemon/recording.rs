//! What a recorder gets of each look, after everything else was done about it.

use super::Daemon;
use super::report::targets;
use crate::act;
use crate::domain::DomainId;
use crate::sense::tree::PATH;
use crate::tell::recording::Begin;
use crate::tell::words::Named;
use lowtide_common::CANDIDATES;
use lowtide_judge::{Memory, Millis, Outcome, Verdict};
use std::fmt::Write as _;
use std::mem::MaybeUninit;

impl Daemon {
    /// A client wants to record, or has ended that. A recording begins between episodes, so that what is
    /// judged in it does not depend on what was before.
    #[inline(never)]
    pub(super) fn on_recorder(&mut self) {
        let may_begin = !self.domains.any_acts();
        let begin = may_begin.then(|| (self.begin(), self.config.effective.toml()));
        let begin = begin
            .as_ref()
            .map(|(begin, config)| (begin, config.as_str()));
        let attended = self
            .recorder
            .as_mut()
            .map(|recorder| recorder.attend(begin));
        if let Some(Err(error)) = attended {
            // The caller would still wait, and wake the agent over and over.
            self.recorder = None;
            self.log.warning(format_args!(
                "no more recordings: {error}; the next start brings them back"
            ));
        }
    }

    #[expect(clippy::arithmetic_side_effects, reason = "milliseconds since boot")]
    fn begin(&self) -> Begin {
        let monotonic = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        Begin {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            engine: self.surveyor.engine().to_owned(),
            boot: self.decisions.boot().to_owned(),
            time: super::state::Standing::now(),
            at: self.now(),
            up_ms: monotonic.tv_sec as u64 * 1_000 + monotonic.tv_nsec as u64 / 1_000_000,
            dry_run: self.standing.dry_run,
        }
    }

    /// Allocates nothing.
    pub(super) fn record_look(
        &mut self,
        id: DomainId,
        fired: bool,
        verdict: &Verdict,
        done: &[act::Done],
    ) {
        let Some(recorder) = self.recorder.as_mut().filter(|r| r.is_recording()) else {
            return;
        };
        let outcomes: heapless::Vec<Outcome, CANDIDATES> =
            done.iter().map(|done| done.outcome).collect();
        // Without a survey there is no newest.
        let survey = (verdict.newest_id != 0).then(|| self.surveyor.last());
        recorder.keep(|writer, body| {
            writer.look(body, id.cgroup(), fired, verdict, survey, &outcomes);
        });
        let mut buffer = [MaybeUninit::uninit(); PATH];
        for (target, done) in targets(verdict).zip(done) {
            let process = done.process.as_ref();
            let named = Named::new(&self.surveyor.tree, &target.row, process, &mut buffer);
            let mut name = heapless::String::<{ PATH + 64 }>::new();
            // One that is longer is cut.
            let _ = write!(name, "{named}");
            recorder.keep(|writer, body| writer.named(body, target.row.id, name.as_bytes()));
        }
        recorder.hand_over(false);
    }

    /// Allocates nothing.
    pub(super) fn record_exit_of(
        &mut self,
        id: DomainId,
        memcg: u64,
        memory: Option<&Memory>,
        now: Millis,
    ) {
        if let Some(recorder) = &mut self.recorder {
            recorder.keep(|writer, body| writer.exit(body, id.cgroup(), memcg, memory, now));
        }
    }

    /// The config is the first, or another one, for this domain as well.
    pub(super) fn record_reconfigured(&mut self, id: DomainId, now: Millis) {
        if let Some(recorder) = &mut self.recorder {
            recorder.keep(|writer, body| writer.reconfigured(body, id.cgroup(), now));
        }
    }

    /// Hands over what was kept, once nothing presses.
    pub(super) fn hand_over_recording(&mut self) {
        let calm = !self.domains.any_acts();
        if let Some(recorder) = self.recorder.as_mut().filter(|_| calm) {
            recorder.hand_over(true);
        }
    }
}
