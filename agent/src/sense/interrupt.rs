//! A walk over all cgroups takes long where they are many, and an alarm does not wait for its end.

use std::io;

/// Cgroups from one time that it is asked whether an alarm came to the next.
const EVERY: u32 = 16;

/// What may end a walk before it has come by all cgroups.
pub struct Interrupt<'a> {
    /// Whether something came that does not wait. Not asked again once it has.
    came: Option<&'a mut dyn FnMut() -> bool>,
    steps: u32,
    ended: bool,
}

impl<'a> Interrupt<'a> {
    /// The walk is not ended.
    pub const fn never() -> Self {
        Self {
            came: None,
            steps: 0,
            ended: false,
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

    /// `Interrupted` where the walk was ended.
    pub fn check(&self) -> io::Result<()> {
        if self.ended {
            return Err(io::ErrorKind::Interrupted.into());
        }
        Ok(())
    }
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
}
