//! What must hold of the protection of every tree of cgroups.

mod common;

use common::*;
use lowtide_common::{NEVER, NO_GROUP, Rule};
use lowtide_judge::protection::*;
use lowtide_judge::{Amount, Group, Policy, Stall, Trigger};
use proptest::prelude::*;

const TRIGGER: Trigger = Trigger {
    stall: Stall::Some,
    stall_us: 1_000,
    window_us: 500_000,
};

/// A cgroup as it is found, with those in it.
#[derive(Clone, Debug)]
struct Node {
    /// Index of a group of its own; beyond those there are: none.
    group: u16,
    is_trusted: bool,
    is_roots: bool,
    is_mixed: bool,
    /// `memory.min`, `.low`, `.high`, `.max`, and `oom_score_adj`.
    found: [i64; 5],
    children: Vec<Node>,
}

/// What was planned for a cgroup, with the plans of those in it.
struct Planned {
    node: Node,
    rule: Rule,
    is_ruled: bool,
    plan: Plan,
    children: Vec<Planned>,
}

impl Planned {
    /// The value in force.
    fn value(&self, knob: Knob) -> i64 {
        let set = self.plan.settings.iter().find(|(k, _)| *k == knob);
        set.map_or_else(|| self.node.found(knob).unwrap_or(0), |(_, value)| *value)
    }

    fn is_set(&self, knob: Knob) -> bool {
        self.plan.settings.iter().any(|(k, _)| *k == knob)
    }

    fn each(&self, f: &mut dyn FnMut(&Self)) {
        f(self);
        for child in &self.children {
            child.each(f);
        }
    }
}

impl Node {
    fn found(&self, knob: Knob) -> Option<i64> {
        match knob {
            Knob::Min => Some(self.found[0]),
            Knob::Low => Some(self.found[1]),
            Knob::High => Some(self.found[2]),
            Knob::Max => Some(self.found[3]),
            Knob::OomScore => Some(self.found[4]),
            Knob::OomGroup => Some(0),
        }
    }
}

fn planned(planner: &mut Planner<'_>, policy: &Policy, node: &Node, above: Rule) -> Planned {
    let own = policy.groups.get(usize::from(node.group));
    let rule = own.map_or(above, |group| Rule {
        kill: group.kill,
        reclaim: group.reclaim,
        group: node.group,
        flags: if node.is_mixed { Rule::PROCESS } else { 0 },
    });
    let mut below = Asks::default();
    let children: Vec<_> = node
        .children
        .iter()
        .map(|child| planned(planner, policy, child, rule))
        .collect();
    for child in &children {
        below.add(&child.plan.asks);
    }
    let cgroup = Cgroup {
        rule,
        is_ruled: own.is_some(),
        is_trusted: node.is_trusted,
        is_roots: node.is_roots,
    };
    let plan = planner.plan(&cgroup, &below, &mut |knob| node.found(knob));
    Planned {
        node: node.clone(),
        rule,
        is_ruled: own.is_some(),
        plan,
        children,
    }
}

fn plan(policy: &Policy, tree: &Node) -> Planned {
    let fallback = Rule {
        kill: policy.fallback.kill,
        reclaim: policy.fallback.reclaim,
        group: NO_GROUP,
        flags: 0,
    };
    planned(&mut Planner::new(policy, TOTAL), policy, tree, fallback)
}

fn bytes() -> impl Strategy<Value = i64> + Clone {
    prop_oneof![3 => Just(0), 2 => 0..64 * MIB as i64, 1 => Just(i64::MAX)]
}

fn node() -> impl Strategy<Value = Node> {
    let score = prop_oneof![Just(-1000), Just(0), -1000..=1000_i64];
    let found = (bytes(), bytes(), bytes(), bytes(), score);
    let leaf = (0..6_u16, any::<bool>(), any::<bool>(), any::<bool>(), found);
    let leaf = leaf.prop_map(|(group, is_trusted, is_roots, is_mixed, f)| Node {
        group,
        is_trusted,
        is_roots,
        is_mixed,
        found: [f.0, f.1, f.2, f.3, f.4],
        children: Vec::new(),
    });
    let leaf = leaf.boxed();
    leaf.clone().prop_recursive(3, 24, 4, move |inner| {
        (leaf.clone(), prop::collection::vec(inner, 0..4))
            .prop_map(|(node, children)| Node { children, ..node })
    })
}

/// Four groups; protection of some may be more than there is.
fn policies() -> impl Strategy<Value = Policy> {
    let amount = prop::option::of(0..TOTAL);
    let kill = prop_oneof![4 => 0..=1000_u16, 1 => Just(NEVER)];
    let one = (kill.clone(), amount.clone(), amount, any::<bool>());
    (kill, prop::collection::vec(one, 4)).prop_map(|(rest, groups)| {
        let mut policy = policy();
        policy.fallback.kill = rest;
        policy.groups.clear();
        for (kill, protect, prefer, watched) in groups {
            let trigger = watched.then_some(TRIGGER);
            let group = Group {
                kill,
                protect: protect.map(Amount::Bytes),
                prefer: prefer.map(Amount::Bytes),
                trigger,
                ..Group::everything_else()
            };
            policy.groups.push(group).expect("four fit");
        }
        policy
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn at_most_half_of_ram_is_protected(policy in policies(), tree in node()) {
        let mut granted = [0; 2];
        plan(&policy, &tree).each(&mut |cgroup| {
            let group = policy.group(cgroup.rule.group);
            if !cgroup.is_ruled || !cgroup.node.is_trusted {
                return;
            }
            for (i, (knob, wanted)) in [(Knob::Min, group.protect), (Knob::Low, group.prefer)].into_iter().enumerate() {
                let wanted = wanted.map_or(0, |amount| amount.of(TOTAL) as i64);
                let cut = cgroup.plan.cuts.iter().find(|cut| cut.knob == knob);
                granted[i] += cut.map_or(wanted, |cut| cut.granted);
            }
        });
        prop_assert!(granted.iter().all(|bytes| *bytes <= TOTAL as i64 / 2), "{granted:?}");
    }

    #[test]
    fn a_cgroup_covers_what_is_protected_in_it(policy in policies(), tree in node()) {
        plan(&policy, &tree).each(&mut |cgroup| {
            for knob in [Knob::Min, Knob::Low] {
                let set: i64 = cgroup.children.iter().filter(|child| child.is_set(knob)).map(|child| child.value(knob)).sum();
                assert!(cgroup.value(knob) >= set, "{knob:?}: {} for {set}", cgroup.value(knob));
            }
        });
    }

    #[test]
    fn protection_is_only_raised(policy in policies(), tree in node()) {
        plan(&policy, &tree).each(&mut |cgroup| {
            for (knob, value) in &cgroup.plan.settings {
                let found = cgroup.node.found(*knob).expect("each has a value");
                match knob {
                    Knob::Min | Knob::Low => assert!(*value > found),
                    Knob::High => assert!(*value < cgroup.node.found[3] && cgroup.node.found[3] <= found),
                    Knob::OomGroup => assert_eq!(*value, 1),
                    Knob::Max | Knob::OomScore => panic!("{knob:?} is not set so"),
                }
            }
        });
    }

    #[test]
    fn without_a_rule_by_right_a_cgroup_is_protected_for_what_is_in_it_alone(policy in policies(), tree in node()) {
        plan(&policy, &tree).each(&mut |cgroup| {
            let by_right = cgroup.is_ruled && cgroup.node.is_trusted;
            if !by_right && cgroup.children.is_empty() {
                assert!(!cgroup.is_set(Knob::Min) && !cgroup.is_set(Knob::Low) && !cgroup.is_set(Knob::High));
            }
        });
    }

    #[test]
    fn processes_end_together_only_where_all_may_end(policy in policies(), tree in node()) {
        plan(&policy, &tree).each(&mut |cgroup| {
            if cgroup.is_set(Knob::OomGroup) {
                cgroup.each(&mut |inside| {
                    assert_eq!(inside.rule.kill, cgroup.rule.kill);
                    assert!(inside.rule.kill != NEVER && inside.rule.flags & Rule::PROCESS == 0);
                });
            }
        });
    }

    #[test]
    fn what_is_never_killed_is_not_ranked_worse_than_before(policy in policies(), tree in node()) {
        plan(&policy, &tree).each(&mut |cgroup| {
            if let Scores::All(score) = cgroup.plan.scores {
                assert!((-1000..=1000).contains(&score));
                if cgroup.rule.kill == NEVER {
                    assert!(score <= cgroup.node.found[4]);
                } else {
                    assert!(score >= ADJ_PRIORITY_0);
                }
            }
        });
    }

    #[test]
    fn the_kernel_ranks_as_the_config(rest in 0_u16..=1000, a in 0_u16..=1000, b in 0_u16..=1000) {
        let mut policy = policy();
        policy.fallback.kill = rest;
        let (a, b) = (a.min(b), a.max(b));
        let (low, high) = (oom_score_adj(&policy, a), oom_score_adj(&policy, b));
        prop_assert!(ADJ_PRIORITY_0 <= low && low <= high && high <= 1000);
        prop_assert_eq!(oom_score_adj(&policy, rest), 0);
    }
}

#[test]
fn never_is_last_but_not_forbidden() {
    let of = |rest, kill| {
        let mut policy = policy();
        policy.fallback.kill = rest;
        oom_score_adj(&policy, kill)
    };
    assert_eq!(of(500, NEVER), ADJ_NEVER);
    assert_eq!(of(NEVER, NEVER), ADJ_NEVER);
    assert_eq!(of(NEVER, 800), 800);
    assert_eq!(of(500, 750), 500);
    const {
        assert!(-1000 < ADJ_NEVER && ADJ_NEVER < ADJ_NEVER_PROCESS);
        assert!(ADJ_NEVER_PROCESS < ADJ_PRIORITY_0);
    };
}

#[test]
fn the_agent_has_what_it_takes_and_what_is_above_it_covers_that() {
    let policy = policy();
    let mut planner = Planner::new(&policy, TOTAL);
    let own = planner.plan_protected(true, &mut |_| Some(0));
    assert_eq!(own.settings, [(Knob::Min, 2 << 20)]);
    let slice = Cgroup {
        rule: Rule {
            flags: 0,
            ..Rule::UNTOUCHABLE
        },
        is_ruled: false,
        is_trusted: false,
        is_roots: true,
    };
    let above = planner.plan(&slice, &own.asks, &mut |_| Some(0));
    assert_eq!(above.settings, [(Knob::Min, 2 << 20)]);
    let init = planner.plan_protected(false, &mut |_| Some(0));
    assert_eq!((init.settings.len(), init.scores), (0, Scores::Untouched));
}

#[test]
fn memory_high_goes_below_memory_max_and_never_below_half_of_it() {
    let mut policy = policy();
    policy.groups.clear();
    let group = Group {
        trigger: Some(TRIGGER),
        ..Group::everything_else()
    };
    policy.groups.push(group).expect("one fits");
    let high = |max: i64, high: i64| {
        let cgroup = Cgroup {
            rule: Rule {
                kill: 500,
                reclaim: 500,
                group: 0,
                flags: 0,
            },
            is_ruled: true,
            is_trusted: true,
            is_roots: true,
        };
        let found = &mut |knob| match knob {
            Knob::Max => Some(max),
            Knob::High => Some(high),
            _ => Some(0),
        };
        let plan = Planner::new(&policy, TOTAL).plan(&cgroup, &Asks::default(), found);
        let set = plan.settings.iter().find(|(knob, _)| *knob == Knob::High);
        set.map(|(_, value)| *value)
    };
    let mib = MIB as i64;
    assert_eq!(high(64 * mib, i64::MAX), Some(60 * mib));
    assert_eq!(high(8 * mib, i64::MAX), Some(7 * mib));
    assert_eq!(high(mib, i64::MAX), Some(mib / 2));
    assert_eq!(high(64 * mib, 32 * mib), None, "it comes before already");
    assert_eq!(high(i64::MAX, i64::MAX), None, "there is no limit");
}
