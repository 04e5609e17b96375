//! The engine for kernels with the memcg kfuncs (Linux 7.0 and later): the survey runs in the
//! kernel as a BPF program.

#![expect(
    clippy::indexing_slicing,
    reason = "constant ranges at the start, and rows up to the least of two lengths"
)]

mod rules;

use super::Engine;
use super::bpf::{self, KernelBtf, Kind, Mapped, Missing, Object, Wanted, objects, refused};
use aya::maps::{HashMap, Map};
use lowtide_common::{KernelLayout, Request, Row, Rule, Survey, UNCLASSIFIED};
use rules::Rules;
use rustix::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::io;

/// What the program calls, by the kernel's names.
pub const KFUNCS: [&str; 12] = [
    "bpf_get_root_mem_cgroup",
    "bpf_get_mem_cgroup",
    "bpf_put_mem_cgroup",
    "bpf_mem_cgroup_usage",
    "bpf_mem_cgroup_page_state",
    "bpf_mem_cgroup_memory_events",
    "bpf_mem_cgroup_flush_stats",
    "bpf_iter_css_new",
    "bpf_iter_css_next",
    "bpf_iter_css_destroy",
    "bpf_rcu_read_lock",
    "bpf_rcu_read_unlock",
];

/// Names in the kernel's BTF that [`KernelLayout`] is made from, in the order of `layout_of`.
pub const LAYOUT: [Wanted<'static>; 27] = [
    Wanted::Member("mem_cgroup", "css"),
    Wanted::Member("cgroup_subsys_state", "cgroup"),
    Wanted::Member("cgroup_subsys_state", "flags"),
    Wanted::Member("cgroup_subsys_state", "children"),
    Wanted::Member("cgroup", "kn"),
    Wanted::Member("cgroup", "level"),
    Wanted::Member("cgroup", "nr_populated_domain_children"),
    Wanted::Member("cgroup", "nr_populated_threaded_children"),
    Wanted::Member("kernfs_node", "id"),
    Wanted::Enumerator("CSS_ONLINE"),
    Wanted::Enumerator("NR_ANON_MAPPED"),
    Wanted::Enumerator("NR_FILE_PAGES"),
    Wanted::Enumerator("NR_FILE_MAPPED"),
    Wanted::Enumerator("NR_SHMEM"),
    Wanted::Enumerator("MEMCG_SWAP"),
    Wanted::Enumerator("WORKINGSET_REFAULT_ANON"),
    Wanted::Enumerator("WORKINGSET_REFAULT_FILE"),
    Wanted::Enumerator("MEMCG_HIGH"),
    Wanted::Enumerator("MEMCG_MAX"),
    Wanted::Enumerator("MEMCG_OOM_KILL"),
    // One of the two: the counter moved from the cgroup into its css in Linux 7.3.
    Wanted::Member("cgroup", "nr_populated_csets"),
    Wanted::Member("cgroup", "self"),
    Wanted::Member("cgroup_subsys_state", "nr_populated_csets"),
    // Only with PSI:
    Wanted::Member("cgroup", "psi"),
    Wanted::Member("psi_group", "total"),
    Wanted::Enumerator("PSI_MEM_SOME"),
    Wanted::Enumerator("PSI_MEM_FULL"),
];

/// How large the engine may grow.
pub struct Options {
    /// cgroups that can have a rule of their own.
    pub max_rules: u32,
    /// Rows that a survey with [`Request::ALL_ROWS`] can show.
    pub rows: u32,
    /// Keep the verifier's words when it refuses.
    pub verifier_log: bool,
}

pub struct Kfunc {
    program: OwnedFd,
    rules: Rules,
    /// That map itself, for the reflex.
    policy_map: OwnedFd,
    survey: Mapped,
    rows: Mapped,
}

impl Kfunc {
    /// Loads the program for the running kernel. Everything that can fail fails here. `root` is the
    /// root directory of the cgroups.
    pub fn open(options: &Options, root: BorrowedFd<'_>) -> Result<Self, Missing> {
        let mut object = objects::SURVEY.to_vec();
        let layout = fit_to_kernel(&mut object)?;
        in_either_form(layout, |layout| Self::load(&object, layout, options, root))
    }

    fn load(
        object: &[u8],
        layout: &KernelLayout,
        options: &Options,
        root: BorrowedFd<'_>,
    ) -> Result<Self, Missing> {
        let sizes = [("RULES", options.max_rules), ("ROWS", options.rows)];
        let mut object = Object::open(object, &[("LAYOUT", as_bytes(layout))], &sizes, &[])?;
        let program = object.load("survey", Kind::OnDemand, options.verifier_log)?;
        let rules = object.take_map("RULES")?;
        let policy_map = rules.fd().as_fd().try_clone_to_owned().map_err(refused)?;
        let rules = HashMap::try_from(Map::HashMap(rules)).map_err(refused)?;
        let survey = Mapped::map(object.take_map("SURVEY")?.fd(), size_of::<Survey>());
        let rows = size_of::<Row>().saturating_mul(options.rows as usize);
        let rows = Mapped::map(object.take_map("ROWS")?.fd(), rows);
        Ok(Self {
            program,
            rules: Rules::new(
                rules,
                options.max_rules as usize,
                root.try_clone_to_owned().map_err(refused)?,
            ),
            policy_map,
            survey: survey.map_err(refused)?,
            rows: rows.map_err(refused)?,
        })
    }
}

impl Engine for Kfunc {
    fn name(&self) -> &'static str {
        "kfunc"
    }

    fn run(&mut self, request: &Request) -> io::Result<()> {
        match bpf::run(&self.program, &mut { *request })? {
            0 => Ok(()),
            _ => Err(io::Error::new(
                io::ErrorKind::NotFound,
                "the kernel gives no root memcg",
            )),
        }
    }

    fn survey(&self) -> &Survey {
        // SAFETY: the map holds one `Survey`, plain integers; only a run writes it, which takes
        // `&mut self`.
        let values = unsafe { self.survey.values::<Survey>() };
        values.first().unwrap_or(&Survey::EMPTY)
    }

    fn rows(&self) -> &[Row] {
        // SAFETY: the map holds `Row`s, plain integers; only a run writes it, which takes
        // `&mut self`.
        let rows = unsafe { self.rows.values::<Row>() };
        &rows[..rows.len().min(self.survey().rows_len as usize)]
    }

    fn policy_map(&self) -> Option<BorrowedFd<'_>> {
        Some(self.policy_map.as_fd())
    }

    fn classify(&mut self, id: u64, rule: Rule) -> io::Result<()> {
        // Where the last survey listed all that are new, one that inherits needs no entry: from the
        // next survey on its id is one of those that were looked at.
        let all_listed = self.survey().unclassified_len as usize <= UNCLASSIFIED;
        if rule.flags & Rule::INHERIT != 0 && all_listed {
            self.rules.remove(id)
        } else {
            self.rules.set(id, rule)
        }
    }

    fn forget_all(&mut self) -> io::Result<()> {
        self.rules.retain(|_, _| false)
    }

    fn tidy(&mut self) {
        self.rules.tidy();
    }

    fn unruled(&self) -> u32 {
        self.rules.refused()
    }
}

/// Which kfuncs the running kernel has, in the order of [`KFUNCS`].
pub fn kfuncs_here() -> Result<[bool; KFUNCS.len()], Missing> {
    let btf = KernelBtf::open()?;
    let found = btf.types()?.find(&KFUNCS.map(Wanted::Func));
    Ok(found.map(|id| id.is_some()))
}

/// Resolves the object's kfunc calls and finds the kernel's layout, in one pass over its BTF.
fn fit_to_kernel(object: &mut [u8]) -> Result<KernelLayout, Missing> {
    let mut wanted = [Wanted::Func(""); KFUNCS.len() + LAYOUT.len()];
    wanted[..KFUNCS.len()].copy_from_slice(&KFUNCS.map(Wanted::Func));
    wanted[KFUNCS.len()..].copy_from_slice(&LAYOUT);
    let found = KernelBtf::open()?.types()?.find(&wanted);
    let (ids, layout) = found.split_at(KFUNCS.len());
    bpf::resolve(object, &KFUNCS, ids)?;
    layout_of(layout)
}

/// From what was found for [`LAYOUT`].
#[expect(
    clippy::arithmetic_side_effects,
    reason = "places within structs of the kernel's"
)]
pub fn layout_of(found: &[Option<u64>]) -> Result<KernelLayout, Missing> {
    let mut values = LAYOUT.iter().zip(found);
    let mut next = || values.next().ok_or(Missing::MalformedBtf);
    let mut must = || {
        let (wanted, value) = next()?;
        value.ok_or(Missing::Layout(*wanted))
    };
    let mut layout = KernelLayout {
        mem_cgroup_css: must()?,
        css_cgroup: must()?,
        css_flags: must()?,
        css_children: must()?,
        cgroup_kn: must()?,
        cgroup_level: must()?,
        cgroup_populated_domains: must()?,
        cgroup_populated_threaded: must()?,
        kernfs_node_id: must()?,
        css_online: must()?,
        nr_anon_mapped: must()?,
        nr_file_pages: must()?,
        nr_file_mapped: must()?,
        nr_shmem: must()?,
        memcg_swap: must()?,
        refault_anon: must()?,
        refault_file: must()?,
        memcg_high: must()?,
        memcg_max: must()?,
        memcg_oom_kill: must()?,
        ..KernelLayout::default()
    };
    let (in_cgroup, css, in_css) = (must(), must(), must());
    layout.cgroup_populated_csets = in_cgroup.or_else(|_| Ok(css? + in_css?))?;
    if let (Ok(psi), Ok(total), Ok(some), Ok(full)) = (must(), must(), must(), must()) {
        // PSI_AVGS is the first of the aggregators, and every counter a u64.
        layout.cgroup_psi = psi;
        layout.psi_mem_some = total + 8 * some;
        layout.psi_mem_full = total + 8 * full;
    }
    Ok(layout)
}

/// Loads a program that walks: in the form that gives the root memcg's reference back, which every
/// kernel so far wants, and where that is refused in the one that does not. Whether the kernel's
/// function takes a reference is in no BTF; it is found by trying.
pub fn in_either_form<T>(
    layout: KernelLayout,
    load: impl Fn(&KernelLayout) -> Result<T, Missing>,
) -> Result<T, Missing> {
    let form = |root_is_held| KernelLayout {
        root_is_held,
        ..layout
    };
    match load(&form(1)) {
        Err(refused @ Missing::Refused { .. }) => load(&form(0)).map_err(|_| refused),
        result => result,
    }
}

pub fn as_bytes(layout: &KernelLayout) -> &[u8] {
    // SAFETY: `repr(C)`, made of u64 only: no padding, and every byte is initialised.
    unsafe { std::slice::from_raw_parts((&raw const *layout).cast(), size_of::<KernelLayout>()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    /// Tries on a kernel that answers the two forms like this, first the one with the root held.
    fn tried(answers: [Result<(), Missing>; 2]) -> (Result<(), Missing>, Vec<u64>) {
        let forms = RefCell::new(Vec::new());
        let answers = RefCell::new(answers.into_iter());
        let result = in_either_form(KernelLayout::default(), |layout| {
            forms.borrow_mut().push(layout.root_is_held);
            answers.borrow_mut().next().unwrap()
        });
        (result, forms.into_inner())
    }

    #[test]
    fn the_root_is_given_back_where_the_kernel_wants_that() {
        let (result, forms) = tried([Ok(()), Ok(())]);
        assert!(result.is_ok());
        assert_eq!(forms, [1]);
    }

    #[test]
    fn a_kernel_that_refuses_the_giving_back_gets_the_form_without() {
        let (result, forms) = tried([Err(refused("release of what is not held")), Ok(())]);
        assert!(result.is_ok());
        assert_eq!(forms, [1, 0]);
    }

    #[test]
    fn where_both_are_refused_the_first_reason_is_told() {
        let (result, _) = tried([Err(refused("first")), Err(refused("second"))]);
        assert_eq!(result.unwrap_err().to_string(), "first");
    }

    #[test]
    fn a_reason_that_is_no_refusal_is_not_tried_around() {
        let (result, forms) = tried([Err(Missing::Permission), Ok(())]);
        assert!(matches!(result, Err(Missing::Permission)));
        assert_eq!(forms, [1]);
    }
}
