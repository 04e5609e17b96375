//! A device that is only pretended, and recorded as the agent and `lowtide record` do it.

use lowtide::tell::recording::{Begin, Bounded, Cgroup, SampleWriter, Writer, frame, header};
use lowtide_common::{CANDIDATES, NO_GROUP, Row, Rule, Survey};
use lowtide_config::{Loaded, parse, rule};
use lowtide_judge::{Action, History, Level, Memory, Outcome};

pub const MIB: u64 = 1 << 20;
pub const TOTAL: u64 = 256 * MIB;

pub const CONFIG: &str = r#"
[[group]]
name = "media"
cgroups = ["apps/media*"]
kill = 800

[[group]]
name = "sensor"
cgroups = ["apps/sensor*"]
kill = 300
"#;

pub fn config(text: &str) -> Loaded {
    parse("test.toml", text).unwrap_or_else(|problems| panic!("{problems}"))
}

pub struct Device {
    pub file: Vec<u8>,
    config: Loaded,
    history: History,
    writer: Writer,
    samples: SampleWriter,
    pub now: u64,
    /// Id and bytes of each.
    pub cgroups: Vec<(u64, u64)>,
    pub gone: Vec<u64>,
}

impl Device {
    /// Half of the cgroups are of the group `media`, the others are sensors, a MiB each.
    pub fn new(cgroups: u64) -> Self {
        let mut this = Self {
            file: header().to_vec(),
            config: config(CONFIG),
            history: History::default(),
            writer: Writer::new(),
            samples: SampleWriter::default(),
            now: 1_000,
            cgroups: (10..10 + cgroups).map(|id| (id, MIB)).collect(),
            gone: Vec::new(),
        };
        let begin = Begin {
            version: "0.1.0".into(),
            engine: "kfunc".into(),
            at: this.now,
            ..Begin::default()
        };
        let mut body = Vec::new();
        this.writer.begin(&mut body, &begin);
        frame(&mut this.file, &body);
        body.clear();
        this.writer.config(&mut body, &this.config.effective.toml());
        frame(&mut this.file, &body);
        for (id, name) in [(1, String::new()), (2, "apps".to_owned())]
            .into_iter()
            .chain((10..10 + cgroups).map(|id| (id, Self::name(id))))
        {
            let cgroup = Cgroup {
                id,
                name: name.into_bytes(),
                path_by_root: true,
                marks_by_root: true,
                ..Cgroup::default()
            };
            body.clear();
            this.samples.cgroup(&mut body, &cgroup);
            frame(&mut this.file, &body);
        }
        this.sample();
        this
    }

    pub fn name(id: u64) -> String {
        let kind = if id.is_multiple_of(2) {
            "media"
        } else {
            "sensor"
        };
        format!("apps/{kind}{id}")
    }

    fn rule(&self, id: u64) -> Rule {
        let name = if id.is_multiple_of(2) {
            "media"
        } else {
            "sensor"
        };
        let policy = &self.config.policy;
        let index = policy.groups.iter().position(|group| group.name == name);
        rule(policy, index.expect("the config has the group") as u16)
    }

    fn row(&self, id: u64, bytes: u64) -> Row {
        Row {
            id,
            parent: 2,
            usage: bytes,
            anon: bytes,
            level: 2,
            flags: Row::POPULATED | Row::LEAF | Row::KILLABLE | Row::RECLAIMABLE,
            rule: self.rule(id),
            ..Row::ZERO
        }
    }

    pub fn memory(&self) -> Memory {
        let used: u64 = self.cgroups.iter().map(|(_, bytes)| bytes).sum();
        Memory {
            total: TOTAL,
            available: TOTAL.saturating_sub(used),
            file: 64 * MIB,
            psi: true,
            ..Memory::default()
        }
    }

    pub fn sample(&mut self) {
        let fallback = rule(&self.config.policy, NO_GROUP);
        let above = |id, parent, level| Row {
            id,
            parent,
            level,
            flags: Row::POPULATED,
            rule: fallback,
            ..Row::ZERO
        };
        let mut rows = vec![above(1, 0, 0), above(2, 1, 1)];
        rows.extend(self.cgroups.iter().map(|(id, bytes)| self.row(*id, *bytes)));
        let mut body = Vec::new();
        self.samples
            .sample(&mut body, self.now, &self.memory(), rows);
        frame(&mut self.file, &body);
    }

    /// One look, and what comes of it.
    pub fn look(&mut self, fired: bool) {
        let memory = self.memory();
        if fired {
            self.history.woken(self.now);
        }
        let rows: Vec<_> = self
            .cgroups
            .iter()
            .map(|(id, bytes)| self.row(*id, *bytes))
            .collect();
        let look = self.history.look(&self.config.policy, &memory, self.now);
        let surveyed = fired || look.wants_survey();
        let mut survey = Survey::EMPTY;
        if surveyed {
            let mut kill = rows;
            kill.sort_by_key(|row| (std::cmp::Reverse(row.kill_key(look.worth())), row.id));
            kill.truncate(CANDIDATES);
            survey.kill[..kill.len()].copy_from_slice(&kill);
            survey.kill_len = kill.len() as u32;
            survey.highest_id = 10_000;
        }
        let mut names = [0; CANDIDATES];
        for (name, row) in names.iter_mut().zip(survey.kill()) {
            if look.wants_name(row) {
                *name = row.id + 7;
            }
        }
        let verdict = look.judge(&survey, &names);
        let outcomes: Vec<_> = match verdict.action {
            Action::Nothing => Vec::new(),
            Action::Kill { .. } => verdict
                .victims()
                .map(|victim| Outcome::ended(victim.row.id + 7))
                .collect(),
            Action::Terminate { target, .. } => vec![Outcome::ended(target.id + 7)],
            Action::Reclaim { .. } => vec![Outcome::DONE],
            _ => vec![Outcome::Failed { errno: 1 }],
        };
        self.history
            .record(&self.config.policy, &verdict, &outcomes);
        let mut body = Bounded::default();
        let survey = surveyed.then_some(&survey);
        self.writer
            .look(&mut body, 0, fired, &verdict, survey, &outcomes);
        frame(&mut self.file, body.body().expect("it fits"));
        if matches!(verdict.action, Action::Kill { .. }) {
            assert!(verdict.level > Level::Calm);
            self.now += 20;
            for victim in verdict.victims() {
                self.cgroups.retain(|(id, _)| *id != victim.row.id);
                self.gone.push(victim.row.id);
                let memory = self.memory();
                let id = victim.row.id;
                self.history.record_exit(id, Some(&memory), self.now);
                let mut body = Vec::new();
                self.writer.exit(&mut body, 0, id, Some(&memory), self.now);
                frame(&mut self.file, &body);
            }
        }
    }

    /// It grows by so much, in so many looks.
    pub fn grow(&mut self, id: u64, by: u64, looks: u64) {
        for look in 0..looks {
            self.now += 50;
            if let Some((_, bytes)) = self.cgroups.iter_mut().find(|(of, _)| *of == id) {
                *bytes += by / looks;
            }
            self.look(look == 0);
        }
    }
}
