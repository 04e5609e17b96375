//! The watch: the kernel itself wakes the agent once less memory is available than its mark, in the
//! context of whatever takes it (`agent-ebpf/src/watch.rs`). Works with every engine: it needs no
//! memcg kfunc.

#![expect(clippy::indexing_slicing, reason = "constant indices, at the start")]

use super::bpf::{
    KernelBtf, Kind, Mapped, Missing, Object, Ring, Wanted, attach, kallsyms, objects, refused,
};
use lowtide_common::{MemoryLayout, Watching};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::param::page_size;
use rustix::time::{ClockId, clock_gettime};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// The functions that it runs in, by the names of the programs. Without the first there is no watch;
/// the second is for what no memcg pays.
const HOOKS: [(&str, &str); 2] = [
    ("charge", "page_counter_try_charge"),
    ("kswapd", "wakeup_kswapd"),
];

/// Counters of the kernel, in the order of [`memory_layout`]; without swap there is no last one.
const COUNTERS: [&str; 4] = [
    "vm_zone_stat",
    "vm_node_stat",
    "totalreserve_pages",
    "nr_swap_pages",
];
/// Places in them.
pub const PLACES: [Wanted<'static>; 4] = [
    Wanted::Enumerator("NR_FREE_PAGES"),
    Wanted::Enumerator("NR_ACTIVE_FILE"),
    Wanted::Enumerator("NR_INACTIVE_FILE"),
    Wanted::Enumerator("NR_SLAB_RECLAIMABLE_B"),
];

/// That less was available than the mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alarm {
    /// When it was found, by CLOCK_MONOTONIC.
    pub at: Duration,
    /// Bytes that were available then, as the program counts: not more than MemAvailable.
    pub available: u64,
}

/// Readable when there is an alarm.
pub struct Watch {
    watching: Mapped,
    alarms: Ring,
    /// Closing one ends its program.
    _links: Vec<OwnedFd>,
    /// Why what no memcg pays is not watched, if so.
    pub lacks: Option<Missing>,
}

impl Watch {
    /// Has the kernel watch from now on, with a mark of 0. Everything that can fail fails here.
    pub fn open(verifier_log: bool) -> Result<Self, Missing> {
        let functions = HOOKS.map(|(_, function)| Wanted::Func(function));
        let mut wanted = [Wanted::Func(""); HOOKS.len() + PLACES.len()];
        wanted[..HOOKS.len()].copy_from_slice(&functions);
        wanted[HOOKS.len()..].copy_from_slice(&PLACES);
        let found = KernelBtf::open()?.types()?.find(&wanted);
        let (functions, places) = found.split_at(HOOKS.len());
        let layout = memory_layout(places)?;
        let sizes = [("ALARMS", Ring::smallest())];
        let mut object = Object::open(
            &objects::WATCH,
            &[("MEMORY", as_bytes(&layout))],
            &sizes,
            &[],
        )?;
        let hook = |index: usize| {
            let (program, function) = HOOKS[index];
            let id = functions[index].ok_or(Missing::Hook(function))?;
            let program = object.load(program, Kind::Entry(id as u32), verifier_log)?;
            attach(&program).map_err(|error| Missing::Attach(function, error))
        };
        let (links, lacks) = attached(hook)?;
        let watching = object.take_map("WATCHING")?;
        let watching = Mapped::words(watching.fd().as_fd(), page_size(), 0, true);
        Ok(Self {
            watching: watching.map_err(refused)?,
            alarms: Ring::new(object.take_map("ALARMS")?.fd().as_fd(), Ring::smallest())?,
            _links: links,
            lacks,
        })
    }

    /// Wakes once fewer `bytes` are available; 0: never.
    #[expect(clippy::arithmetic_side_effects, reason = "a page has bytes")]
    pub fn set_mark(&self, bytes: u64) {
        self.word(0).store(bytes / page_size() as u64, Relaxed);
    }

    /// No alarm until this time has passed.
    pub fn set_quiet(&self, length: Duration) {
        let until = now().saturating_add(length).as_nanos() as u64;
        self.word(1).store(until, Relaxed);
    }

    /// Takes the alarms so far; the last of them, if there is any.
    pub fn take(&self) -> Option<Alarm> {
        self.alarms.drain().then(|| Alarm {
            at: Duration::from_nanos(self.word(2).load(Relaxed)),
            available: self
                .word(3)
                .load(Relaxed)
                .saturating_mul(page_size() as u64),
        })
    }

    /// A word of [`Watching`].
    fn word(&self, index: usize) -> &AtomicU64 {
        const { assert!(size_of::<Watching>() == 4 * 8) };
        self.watching.word(index)
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.alarms.as_fd()
    }
}

/// Links of the hooks, each by its number: the first must be there, and why the other is not is the second
/// value.
fn attached<T>(
    hook: impl Fn(usize) -> Result<T, Missing>,
) -> Result<(Vec<T>, Option<Missing>), Missing> {
    let mut links = vec![hook(0)?];
    let lacks = hook(1).map(|link| links.push(link)).err();
    Ok((links, lacks))
}

/// CLOCK_MONOTONIC.
pub fn now() -> Duration {
    let now = clock_gettime(ClockId::Monotonic);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// From what was found for [`PLACES`], and the addresses of the counters.
pub fn memory_layout(places: &[Option<u64>]) -> Result<MemoryLayout, Missing> {
    let mut found = PLACES.iter().zip(places);
    let mut next = || {
        let (wanted, value) = found.next().ok_or(Missing::MalformedBtf)?;
        value.ok_or(Missing::Layout(*wanted))
    };
    let places = [next()?, next()?, next()?, next()?];
    let addresses = kallsyms::addresses(&COUNTERS)?;
    let must = |index: usize| addresses[index].ok_or(Missing::Symbol(COUNTERS[index]));
    Ok(MemoryLayout {
        vm_zone_stat: must(0)?,
        vm_node_stat: must(1)?,
        totalreserve_pages: must(2)?,
        nr_swap_pages: addresses[3].unwrap_or(0),
        nr_free_pages: places[0],
        nr_active_file: places[1],
        nr_inactive_file: places[2],
        nr_slab_reclaimable: places[3],
    })
}

pub fn as_bytes(layout: &MemoryLayout) -> &[u8] {
    // SAFETY: `repr(C)`, made of u64 only: no padding, and every byte is initialised.
    unsafe { std::slice::from_raw_parts((&raw const *layout).cast(), size_of::<MemoryLayout>()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::ErrorKind::PermissionDenied;

    #[test]
    fn without_its_first_hook_there_is_no_watch() {
        let inlined = |index| match index {
            0 => Err(Missing::Hook("page_counter_try_charge")),
            _ => Ok(()),
        };
        let said = attached(inlined).unwrap_err().to_string();
        assert_eq!(
            said,
            "the kernel has no function page_counter_try_charge that a program could run in"
        );
    }

    #[test]
    fn without_the_other_it_sees_what_is_charged() {
        let refused = |index| match index {
            0 => Ok(()),
            _ => Err(Missing::Attach("wakeup_kswapd", PermissionDenied.into())),
        };
        let (links, lacks) = attached(refused).unwrap();
        assert_eq!(links.len(), 1);
        let said = lacks.unwrap().to_string();
        assert!(said.starts_with("the kernel lets no program run in wakeup_kswapd: "));
        assert!(!said.contains('\n'), "{said}");
    }

    #[test]
    fn a_kernel_that_names_a_counter_otherwise_is_said() {
        let places = [Some(0), Some(1), None, Some(3)];
        let said = memory_layout(&places).unwrap_err().to_string();
        let of_place = "the kernel's BTF has no NR_INACTIVE_FILE; ";
        assert!(said.starts_with(of_place) && !said.contains('\n'), "{said}");
    }
}
