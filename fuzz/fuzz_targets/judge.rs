//! Episodes of any evidence under the shipped policies: no panic, the same answer twice, only what
//! the level allows, only on what the survey names, never on `never`; the highest number first.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use lowtide::config::parse;
use lowtide_common::{CANDIDATES, NEVER, Row, Rule, Survey};
use lowtide_judge::{
    Action, History, Level, Memory, Outcome, Policy, Reason, Step, Verdict,
};
use std::sync::LazyLock;

/// Nothing shipped throttles.
const THROTTLING: &str = r#"
[level.critical]
actions = ["reclaim", "throttle", "terminate", "kill"]
[everything_else]
throttle = "2s"
"#;

static POLICIES: LazyLock<[Policy; 6]> = LazyLock::new(|| {
    [
        "",
        THROTTLING,
        include_str!("../../config/profiles/router.toml"),
        include_str!("../../config/profiles/gateway.toml"),
        include_str!("../../config/profiles/camera.toml"),
        include_str!("../../config/profiles/kiosk.toml"),
    ]
    .map(|text| {
        parse("policy", text)
            .unwrap_or_else(|p| panic!("{p}"))
            .policy
    })
});

#[derive(Arbitrary, Debug)]
struct Episode {
    policy: u8,
    within: bool,
    moments: Vec<Moment>,
}

#[derive(Arbitrary, Debug)]
struct Moment {
    ms_later: u16,
    woken: bool,
    memory: [u64; 11],
    psi: bool,
    told: bool,
    kill: Vec<Candidate>,
    reclaim: Vec<Candidate>,
    works: bool,
    exits: bool,
}

#[derive(Arbitrary, Debug)]
struct Candidate {
    id: u8,
    sizes: [u64; 6],
    kill: u16,
    reclaim: u16,
    group: u16,
    level: u8,
}

/// As a config can have it: 0..=1000, or never.
fn priority(any: u16) -> u16 {
    if any == NEVER { NEVER } else { any % 1001 }
}

/// More bytes than any machine has, few enough to add some up.
const fn bytes(n: u64) -> u64 {
    n >> 12
}

impl Candidate {
    fn row(&self) -> Row {
        let [usage, anon, file, shmem, file_mapped, swap] = self.sizes.map(bytes);
        Row {
            id: self.id.into(),
            usage,
            anon,
            file,
            shmem,
            file_mapped,
            swap,
            level: self.level.into(),
            flags: Row::POPULATED | Row::KILLABLE,
            rule: Rule {
                kill: priority(self.kill),
                reclaim: priority(self.reclaim),
                group: self.group,
                flags: Rule::UNIT,
            },
            ..Row::ZERO
        }
    }
}

impl Moment {
    fn memory(&self, within: bool) -> Memory {
        let [
            total,
            available,
            swap_total,
            swap_free,
            file,
            zram,
            refaults,
            some,
            full,
            limited,
            swappable,
        ] = self.memory;
        Memory {
            within: within.into(),
            total: bytes(total),
            available: bytes(available),
            free: 0,
            swap_total: bytes(swap_total),
            swap_free: bytes(swap_free),
            swappable: bytes(swappable),
            file: bytes(file),
            psi: self.psi,
            told: self.told,
            zram: bytes(zram),
            refaults,
            psi_some_us: some,
            psi_full_us: full,
            psi_limited_us: limited,
        }
    }

    fn survey(&self) -> Survey {
        let mut survey = Survey::EMPTY;
        survey.kill_len = fill(&mut survey.kill, &self.kill);
        survey.reclaim_len = fill(&mut survey.reclaim, &self.reclaim);
        survey.highest_id = survey.kill().iter().map(|row| row.id).max().unwrap_or(0);
        survey
    }
}

fn fill(rows: &mut [Row; CANDIDATES], candidates: &[Candidate]) -> u32 {
    for (row, candidate) in rows.iter_mut().zip(candidates) {
        *row = candidate.row();
    }
    candidates.len().min(CANDIDATES) as u32
}

/// What a candidate is called whenever it comes back; a few share a name.
fn name(row: &Row) -> u64 {
    row.id / 4
}

/// No lower number goes before a higher one that would help, against which nothing else speaks.
fn assert_order(verdict: &Verdict) {
    let victims = verdict.victims().map(|victim| victim.row.rule.kill);
    let lowest = victims.min().unwrap_or(u16::MAX);
    let passed_over = verdict.judged.iter().find(|judged| {
        let stays = judged.reason != Reason::Chosen && judged.reason != Reason::Together;
        let helps = judged.frees >= verdict.worth && judged.reason.is_in_order();
        stays && helps && judged.row.rule.kill > lowest
    });
    assert!(passed_over.is_none(), "{verdict:#?}");
}

fuzz_target!(|episode: Episode| {
    let policy = &POLICIES[usize::from(episode.policy) % POLICIES.len()];
    let mut history = History::default();
    let mut now = 0;
    let mut asked = Vec::new();
    for moment in &episode.moments {
        now += u64::from(moment.ms_later);
        if moment.woken {
            history.woken(now);
        }
        let (memory, survey) = (moment.memory(episode.within), moment.survey());
        let judged = |history: &mut History| {
            let look = history.look(policy, &memory, now);
            let mut names = [0; CANDIDATES];
            for (slot, row) in names.iter_mut().zip(survey.kill()) {
                if look.wants_name(row) {
                    *slot = name(row);
                }
            }
            look.judge(&survey, &names)
        };
        let again = judged(&mut history.clone());
        let verdict = judged(&mut history);
        assert_eq!(verdict, again);
        if let Some(step) = verdict.action.step() {
            assert!(verdict.level > Level::Calm);
            assert!(step < Step::Reboot || !episode.within);
            assert!(policy.levels.iter().any(|l| l.actions.contains(&step)));
        }
        if let Some(target) = verdict.action.target() {
            let (among, priority) = match verdict.action {
                Action::Reclaim { .. } => (survey.reclaim(), target.rule.reclaim),
                _ => (survey.kill(), target.rule.kill),
            };
            assert!(among.contains(target));
            assert_ne!(priority, NEVER);
        }
        match verdict.action {
            Action::Prepare { target, .. } | Action::Terminate { target, .. } => {
                asked.push(target.id);
            }
            // What was asked before ends first, whatever else is there by now.
            Action::Kill { target } if !asked.contains(&target.id) => assert_order(&verdict),
            _ => {}
        }
        for victim in verdict.victims() {
            let row = &victim.row;
            assert!(row.rule.kill != NEVER);
            assert_ne!(victim.reason, Reason::InVain);
            assert!(victim.frees >= 256 << 10 || asked.contains(&row.id));
        }
        let outcome = |row: &Row| match verdict.action {
            _ if !moment.works => Outcome::Failed { errno: 3 },
            Action::Reclaim { bytes, .. } => Outcome::reclaimed(bytes),
            _ => Outcome::ended(name(row)),
        };
        let mut outcomes: Vec<_> = verdict.victims().map(|v| outcome(&v.row)).collect();
        if outcomes.is_empty() {
            outcomes.extend(verdict.action.target().map(outcome));
        }
        history.record(policy, &verdict, &outcomes);
        if moment.exits {
            for victim in verdict.victims() {
                history.record_exit(victim.row.id, Some(&memory), now);
            }
        }
    }
});
