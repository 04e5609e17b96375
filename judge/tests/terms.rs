//! Each term of a condition, right below, at and right above its bound.

use lowtide_judge::{Amount, Condition, Memory, Rates, Stall, Stalls, Term};

const MEMORY: Memory = Memory {
    within: 0,
    total: 1000,
    available: 100,
    free: 0,
    swap_total: 500,
    swap_free: 50,
    swappable: 400,
    file: 0,
    psi: true,
    told: false,
    zram: 70,
    refaults: 0,
    psi_some_us: 0,
    psi_full_us: 0,
    psi_limited_us: 0,
};

const RATES: Rates = Rates {
    absorbed: false,
    shrinking: 40,
    pace: 0,
    refaults: 30,
    stalled: Stalls {
        some_permyriad: 2000,
        full_permyriad: 1000,
    },
    lasting: Some(Stalls {
        some_permyriad: 1500,
        full_permyriad: 700,
    }),
    limited_permyriad: 600,
};

/// Whether it holds of the figures above, for its figure less 1, its figure, and that and 1.
fn around(figure: u64, term: impl Fn(u64) -> Term) -> [bool; 3] {
    [figure - 1, figure, figure + 1].map(|bound| term(bound).holds(&MEMORY, Some(&RATES)))
}

const BELOW: [bool; 3] = [false, false, true];
const ABOVE: [bool; 3] = [true, false, false];

fn bytes(bound: u64) -> Amount {
    Amount::Bytes(bound)
}

#[test]
fn each_term_holds_on_its_side_of_the_bound_alone() {
    let narrow = |bound: u64| u32::try_from(bound).expect("small");
    let share = |bound: u64| u16::try_from(bound).expect("a share");
    assert_eq!(around(100, |b| Term::AvailableBelow(bytes(b))), BELOW);
    assert_eq!(around(100, |b| Term::AvailableAbove(bytes(b))), ABOVE);
    assert_eq!(around(50, |b| Term::SwapFreeBelow(bytes(b))), BELOW);
    assert_eq!(around(50, |b| Term::SwapFreeAbove(bytes(b))), ABOVE);
    assert_eq!(around(70, |b| Term::ZramBelow(bytes(b))), BELOW);
    assert_eq!(around(70, |b| Term::ZramAbove(bytes(b))), ABOVE);
    assert_eq!(around(30, |b| Term::RefaultsBelow(narrow(b))), BELOW);
    assert_eq!(around(30, |b| Term::RefaultsAbove(narrow(b))), ABOVE);
    assert_eq!(around(600, |b| Term::LimitedBelow(share(b))), BELOW);
    assert_eq!(around(600, |b| Term::LimitedAbove(share(b))), ABOVE);
    assert_eq!(around(40, Term::ShrinkingBy), ABOVE);
    // What lasts confirms, and what there is now relieves.
    for (stall, lasting, stalled) in [(Stall::Some, 1500, 2000), (Stall::Full, 700, 1000)] {
        let above = |b| Term::PressureAbove(stall, share(b));
        let below = |b| Term::PressureBelow(stall, share(b));
        assert_eq!(around(lasting, above), ABOVE);
        assert_eq!(around(stalled, below), BELOW);
    }
}

#[test]
fn a_rate_that_is_not_known_holds_nothing() {
    let all = |stall| {
        [
            Term::PressureAbove(stall, 0),
            Term::PressureBelow(stall, u16::MAX),
        ]
    };
    let others = [
        Term::RefaultsAbove(0),
        Term::RefaultsBelow(u32::MAX),
        Term::LimitedAbove(0),
        Term::LimitedBelow(u16::MAX),
        Term::ShrinkingBy(0),
    ];
    for term in [all(Stall::Some), all(Stall::Full)]
        .concat()
        .iter()
        .chain(&others)
    {
        assert!(!term.holds(&MEMORY, None), "{term:?}");
    }
    // Not looked at for long enough: nothing lasts.
    let short = Rates {
        lasting: None,
        ..RATES
    };
    assert!(!Term::PressureAbove(Stall::Some, 0).holds(&MEMORY, Some(&short)));
    assert!(Term::PressureBelow(Stall::Some, u16::MAX).holds(&MEMORY, Some(&short)));
}

#[test]
fn without_swap_none_is_free() {
    let without = Memory {
        swap_total: 0,
        swap_free: 0,
        ..MEMORY
    };
    assert!(Term::SwapFreeBelow(bytes(0)).holds(&without, None));
    assert!(!Term::SwapFreeAbove(bytes(0)).holds(&without, None));
    let nothing_to_swap = Memory {
        swappable: 10,
        ..MEMORY
    };
    assert!(Term::SwapFreeBelow(bytes(11)).holds(&nothing_to_swap, None));
    assert!(!Term::SwapFreeBelow(bytes(10)).holds(&nothing_to_swap, None));
}

#[test]
fn a_share_is_of_ram_or_of_swap() {
    // 10 % of 1000.
    let tenth = Amount::Permyriad(1000);
    assert!(!Term::AvailableBelow(tenth).holds(&MEMORY, None));
    assert!(!Term::AvailableAbove(tenth).holds(&MEMORY, None));
    // 10 % of 500.
    assert!(!Term::SwapFreeBelow(tenth).holds(&MEMORY, None));
    assert!(!Term::SwapFreeAbove(tenth).holds(&MEMORY, None));
    assert_eq!(Amount::Permyriad(1).of(10_000), 1);
    assert_eq!(Amount::Permyriad(2500).of(10_002), 2500);
    assert_eq!(Amount::Permyriad(5000).of(29_999), 14_999);
    assert_eq!(Amount::Permyriad(10_000).of(u64::MAX), u64::MAX);
}

#[test]
fn a_condition_is_any_clause_of_which_all_terms_hold() {
    let (yes, no) = (
        Term::AvailableAbove(bytes(0)),
        Term::AvailableBelow(bytes(0)),
    );
    let condition = |clauses: &[&[Term]]| {
        let mut condition = Condition::default();
        for clause in clauses {
            let clause = heapless::Vec::from_slice(clause).expect("it fits");
            condition.any.push(clause).expect("it fits");
        }
        condition.holds(&MEMORY, None)
    };
    assert!(condition(&[]));
    assert!(condition(&[&[yes]]));
    assert!(!condition(&[&[no]]));
    assert!(!condition(&[&[yes, no]]));
    assert!(condition(&[&[yes, no], &[yes]]));
    assert!(!condition(&[&[yes, no], &[no]]));
}

#[test]
fn the_highest_mark_that_a_condition_names_is_its_mark() {
    let clause = [
        Term::AvailableBelow(bytes(30)),
        Term::AvailableAbove(bytes(80)),
        Term::ZramAbove(bytes(90)),
    ];
    let condition = Condition::all(&clause).expect("it fits");
    assert_eq!(condition.available_mark(1000), Some(80));
    assert_eq!(Condition::default().available_mark(1000), None);
}
