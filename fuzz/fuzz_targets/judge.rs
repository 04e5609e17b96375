//! Episodes of any evidence under the shipped policies: no panic, the same answer twice, only what
//! the level allows, only on whom the survey names, never on `never`.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use lowtide::config::parse;
use lowtide_common::{CANDIDATES, NEVER, Row, Rule, Survey};
use lowtide_judge::{Action, History, Level, Memory, Outcome, Policy, Step, judge};
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
    memory: [u64; 10],
    psi: bool,
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
                kill: self.kill,
                reclaim: self.reclaim,
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
        ] = self.memory;
        Memory {
            within: within.into(),
            total: bytes(total),
            available: bytes(available),
            swap_total: bytes(swap_total),
            swap_free: bytes(swap_free),
            file: bytes(file),
            psi: self.psi,
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
        survey
    }
}

fn fill(rows: &mut [Row; CANDIDATES], candidates: &[Candidate]) -> u32 {
    for (row, candidate) in rows.iter_mut().zip(candidates) {
        *row = candidate.row();
    }
    candidates.len().min(CANDIDATES) as u32
}

fn step_of(action: &Action) -> Option<Step> {
    match action {
        Action::Nothing => None,
        Action::Reclaim { .. } => Some(Step::Reclaim),
        Action::Throttle { .. } => Some(Step::Throttle),
        Action::Prepare { .. } | Action::Terminate { .. } => Some(Step::Terminate),
        Action::Kill { .. } => Some(Step::Kill),
        Action::Reboot => Some(Step::Reboot),
        Action::Starve => Some(Step::Watchdog),
    }
}

fuzz_target!(|episode: Episode| {
    let policy = &POLICIES[usize::from(episode.policy) % POLICIES.len()];
    let mut history = History::default();
    let mut now = 0;
    for moment in &episode.moments {
        now += u64::from(moment.ms_later);
        if moment.woken {
            history.woken(now);
        }
        let (memory, survey) = (moment.memory(episode.within), moment.survey());
        history.observe(&memory, now);
        let verdict = judge(policy, &memory, &survey, &history, now);
        assert_eq!(verdict, judge(policy, &memory, &survey, &history, now));
        for (level, rules) in Level::CONFIGURED.into_iter().zip(&policy.levels) {
            let holds = rules.confirm.holds(&memory, verdict.rates.as_ref());
            assert!(verdict.level != level || holds);
        }
        if let Some(step) = step_of(&verdict.action) {
            assert!(verdict.acting.is_some());
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
        let outcome = match verdict.action {
            _ if !moment.works => Outcome::Failed { errno: 3 },
            Action::Reclaim { bytes, .. } => Outcome::Reclaimed { bytes },
            Action::Throttle { .. } => Outcome::Throttled,
            Action::Prepare { .. } => Outcome::Prepared,
            Action::Terminate { .. } => Outcome::Asked,
            _ => Outcome::Killed,
        };
        history.note(policy, &verdict, Some(outcome), now);
        history.remember(survey.kill(), now);
        if moment.exits {
            history.gone();
        }
    }
});
