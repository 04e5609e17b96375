//! What systemd says of a unit by `ManagedOOMPreference=`, as marks on the directory of its cgroup
//! (systemd.resource-control(5)).

use super::matcher::Lookup;
use super::trust::{Chosen, Ruled};
use lowtide_common::{NEVER, Rule};
use std::ffi::CStr;

/// Where both are set, `OMIT` counts, as for systemd-oomd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preference {
    /// `avoid`: last of its number.
    Avoid,
    /// `omit`: never.
    Omit,
}

const OMIT: &CStr = c"user.oomd_omit";
const AVOID: &CStr = c"user.oomd_avoid";

impl Preference {
    /// Of the cgroup whose marks are looked up; none where somebody without rights could have set them.
    pub fn of(chosen: &Chosen, attribute: Lookup<'_>) -> Option<Self> {
        if !chosen.marks_by_root {
            return None;
        }
        let mut says = |name| {
            let mut value = [0; 8];
            attribute(name, &mut value)
                .and_then(|length| value.get(..length))
                .is_some_and(is_true)
        };
        if says(OMIT) {
            Some(Self::Omit)
        } else {
            says(AVOID).then_some(Self::Avoid)
        }
    }

    /// The rule of a cgroup that has this one of its own, or that which is in force above it.
    pub fn applied(self, own: Option<Ruled>, above: Rule) -> Ruled {
        let inherited = Rule {
            // Below a unit each cgroup is ranked by itself once one has a rule of its own.
            flags: above.flags & !Rule::UNIT,
            ..above
        };
        let rule = own.map_or(inherited, |own| own.rule);
        Ruled {
            rule: Rule {
                kill: match self {
                    Self::Avoid => rule.kill,
                    Self::Omit => NEVER,
                },
                flags: rule.flags | Rule::AVOID,
                ..rule
            },
            trusted: own.is_some_and(|own| own.trusted),
        }
    }
}

/// As systemd's `parse_boolean` has it, lower case alone.
fn is_true(value: &[u8]) -> bool {
    matches!(value, b"1" | b"yes" | b"y" | b"true" | b"t" | b"on")
}

#[cfg(test)]
mod tests {
    use super::*;
    use lowtide_common::NO_GROUP;

    const ABOVE: Rule = Rule {
        kill: 500,
        reclaim: 400,
        group: NO_GROUP,
        flags: 0,
    };

    fn marked(marks_by_root: bool, marks: &[(&CStr, &[u8])]) -> Option<Preference> {
        let chosen = Chosen {
            path_by_root: true,
            marks_by_root,
            above: ABOVE,
        };
        Preference::of(&chosen, &mut |name, buffer| {
            let (_, value) = marks.iter().find(|(mark, _)| *mark == name)?;
            buffer.get_mut(..value.len())?.copy_from_slice(value);
            Some(value.len())
        })
    }

    #[test]
    fn what_systemd_marks_is_spared() {
        assert_eq!(marked(true, &[(AVOID, b"1")]), Some(Preference::Avoid));
        assert_eq!(marked(true, &[(OMIT, b"1")]), Some(Preference::Omit));
        let both: &[(&CStr, &[u8])] = &[(AVOID, b"1"), (OMIT, b"true")];
        assert_eq!(marked(true, both), Some(Preference::Omit));
        for none in [&b"0"[..], b"", b"no", b"longer than that"] {
            assert_eq!(marked(true, &[(OMIT, none), (AVOID, none)]), None);
        }
    }

    #[test]
    fn a_mark_that_anybody_can_set_spares_nothing() {
        assert_eq!(marked(false, &[(OMIT, b"1"), (AVOID, b"1")]), None);
    }

    #[test]
    fn avoid_keeps_the_number_and_omit_means_never() {
        let avoid = Preference::Avoid.applied(None, ABOVE);
        assert_eq!((avoid.rule.kill, avoid.trusted), (500, false));
        assert!(avoid.rule.kill_turn() < ABOVE.kill_turn());
        let omit = Preference::Omit.applied(None, ABOVE);
        assert_eq!((omit.rule.kill, omit.rule.reclaim), (NEVER, 400));
    }
}
