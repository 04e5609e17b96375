//! Stacks that are given back, and one that is taken beforehand. All memory of the agent is locked, so
//! what its deepest call once touched stays for good; and what was not touched yet has to be had first.

use std::hint::black_box;
use std::thread::{Builder, scope};

/// What it takes from a look at the figures to a kill, 33 KiB on x86_64, and some more.
const EPISODE: usize = 40 << 10;

/// Does what goes deep and comes seldom on a stack of its own; on that of the caller where there is no
/// thread to be had.
pub fn on_its_own<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let mut work = Some(work);
    let done = scope(|scope| {
        let once = || work.take().map(|work| work());
        let thread = Builder::new().spawn_scoped(scope, once).ok()?;
        match thread.join() {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    });
    done.or_else(|| work.map(|work| work()))
        .expect("it is done here if not there")
}

/// Touches the stack below the caller that an episode will need. Under pressure its first touch was
/// seen to wait 26 ms for a page.
#[inline(never)]
pub fn touch() {
    black_box([0_u8; EPISODE]);
}

#[cfg(test)]
mod tests {
    use super::on_its_own;
    use std::thread;

    #[test]
    fn what_it_gives_comes_back_and_its_stack_is_another() {
        let here = thread::current().id();
        assert_ne!(on_its_own(|| thread::current().id()), here);
    }

    #[test]
    fn a_panic_is_that_of_the_caller() {
        let caught = std::panic::catch_unwind(|| on_its_own(|| panic!("so be it")));
        let said = *caught.unwrap_err().downcast::<&str>().unwrap();
        assert_eq!(said, "so be it");
    }
}
