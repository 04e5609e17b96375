//! A walk over all cgroups takes long where they are many, and an alarm does not wait for its end.

use rustix::io::Errno;
use std::io;

/// Cgroups from one time that it is asked whether an alarm came to the next.
const EVERY: u32 = 16;

/// What may end a walk before it has come by all cgroups.
pub struct Interrupt<'a> {
    /// Whether something came that does not wait. Not asked again once it has.
    came: Option<&'a mut dyn FnMut() -> bool>,
    steps: u32,
    ended: bool,
    /// What could not be read.
    failed: Option<Errno>,
}

impl<'a> Interrupt<'a> {
    /// The walk is not ended.
    pub const fn never() -> Self {
        Self {
            came: None,
            steps: 0,
            ended: false,
            failed: None,
        }
    }

    pub fn by(came: &'a mut dyn FnMut() -> bool) -> Self {
        Self {
            came: Some(came),
            ..Self::never()
        }
    }

    /// Whether the walk is to end before the next cgroup.
    pub fn ends(&mut self) -> bool {
        self.steps = self.steps.wrapping_add(1);
        if let Some(came) = &mut self.came
            && !self.ended
            && self.steps.is_multiple_of(EVERY)
        {
            self.ended = came();
        }
        self.ended
    }

    /// What a step of the walk came to; `None` where that cgroup has gone or may not be looked into: it is
    /// left out. A step that may work the next time ends the walk: what it leaves out would count as gone.
    pub fn step<T>(&mut self, step: io::Result<T>) -> Option<T> {
        match step {
            Ok(step) => Some(step),
            Err(error) => {
                if may_work_again(&error) {
                    self.ended = true;
                    self.failed
                        .get_or_insert(Errno::from_io_error(&error).unwrap_or(Errno::IO));
                }
                None
            }
        }
    }

    /// `Interrupted` where an alarm ended the walk, or what could not be read.
    pub fn check(&self) -> io::Result<()> {
        match self.failed {
            Some(errno) => Err(errno.into()),
            None if self.ended => Err(io::ErrorKind::Interrupted.into()),
            None => Ok(()),
        }
    }
}

/// Whether it is not about the cgroup or the process, but about the kernel being short of memory or disturbed.
pub fn may_work_again(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::IO | Errno::NOMEM | Errno::INTR | Errno::AGAIN)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_ends_a_few_cgroups_after_an_alarm_and_stays_ended() {
        let mut asked = 0;
        let mut came = || {
            asked += 1;
            asked == 2
        };
        let mut interrupt = Interrupt::by(&mut came);
        let walked = (1..100).find(|_| interrupt.ends());
        assert_eq!(walked, Some(2 * EVERY));
        assert!(interrupt.ends());
        let ended = interrupt.check().map_err(|error| error.kind());
        assert_eq!(ended, Err(io::ErrorKind::Interrupted));
        assert_eq!(asked, 2);
    }

    #[test]
    fn without_an_alarm_a_walk_comes_to_its_end() {
        let mut never = Interrupt::never();
        assert!(!(1..100).any(|_| never.ends()));
        assert!(never.check().is_ok());
    }

    #[test]
    fn a_step_that_may_work_again_ends_the_walk_and_one_that_has_gone_does_not() {
        let mut walk = Interrupt::never();
        let step = |errno: Errno| Err::<(), _>(io::Error::from(errno));
        assert_eq!(walk.step(Ok(3)), Some(3));
        for gone in [Errno::NOENT, Errno::NODEV, Errno::ACCESS] {
            assert_eq!(walk.step(step(gone)), None);
        }
        assert!(!walk.ends() && walk.check().is_ok());
        assert_eq!(walk.step(step(Errno::NOMEM)), None);
        assert_eq!(walk.step(step(Errno::IO)), None);
        assert!(walk.ends());
        let error = walk.check().unwrap_err();
        assert_eq!(Errno::from_io_error(&error), Some(Errno::NOMEM));
    }
}
