//! From a target's answers to its standing. Pure: the time and the randomness are the caller's.
//!
//! The first answer settles it. After that a target changes its standing only after some answers in a row that say
//! the other thing, so that one lost packet takes no target out and one lucky answer brings none back.

use crate::boundary::table::Standing;
use crate::config::HealthCheck;
use jiff::Timestamp;
use rand::{Rng, RngExt};
use std::time::Duration;

/// How far a pause may be from the interval, either way: checks of one start drift apart.
const JITTER: f64 = 0.1;

/// What a target's answers have come to so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Course {
    pub standing: Standing,
    pub since: Timestamp,
    /// Answers in a row that say the other thing.
    against: u32,
}

impl Course {
    /// Nobody has asked yet.
    pub fn begun(now: Timestamp) -> Course {
        Course { standing: Standing::Unknown, since: now, against: 0 }
    }

    /// After one more answer, and whether that changed the standing.
    pub fn heard(self, well: bool, check: &HealthCheck, now: Timestamp) -> (Course, bool) {
        let (says, needed) = match well {
            true => (Standing::Up, check.healthy_after),
            false => (Standing::Down, check.unhealthy_after),
        };
        if self.standing == says {
            return (Course { against: 0, ..self }, false);
        }
        let against = self.against + 1;
        if self.standing == Standing::Unknown || against >= needed {
            return (Course { standing: says, since: now, against: 0 }, true);
        }
        (Course { against, ..self }, false)
    }
}

/// From one check's start to the next one's.
pub fn pause(interval: Duration, rng: &mut impl Rng) -> Duration {
    interval.mul_f64(rng.random_range(1.0 - JITTER..1.0 + JITTER))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::CheckKind;
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    fn check(unhealthy_after: u32, healthy_after: u32) -> HealthCheck {
        let second = Duration::from_secs(1);
        HealthCheck { kind: CheckKind::Tcp, interval: second, timeout: second, unhealthy_after, healthy_after }
    }

    fn at(second: usize) -> Timestamp {
        Timestamp::from_second(second as i64).unwrap()
    }

    /// `+` is a good answer; the standings after each.
    fn standings(answers: &str, check: &HealthCheck) -> String {
        let mut course = Course::begun(at(0));
        let mut heard = |(nth, answer): (usize, char)| {
            (course, _) = course.heard(answer == '+', check, at(nth + 1));
            course.standing.word().chars().next().unwrap()
        };
        answers.chars().enumerate().map(&mut heard).collect()
    }

    #[test]
    fn the_first_answer_settles_it_and_then_it_takes_some_in_a_row() {
        assert_eq!(standings("+--+---+-++", &check(3, 2)), "uuuuuuddddu");
        assert_eq!(standings("-+-++", &check(3, 2)), "ddddu");
        assert_eq!(standings("+-+-", &check(1, 1)), "udud");
    }

    #[test]
    fn since_is_the_change_and_not_the_last_answer() {
        let check = check(1, 1);
        let (up, changed) = Course::begun(at(0)).heard(true, &check, at(5));
        assert!(changed);
        let (up, changed) = up.heard(true, &check, at(9));
        assert_eq!((up.since, changed), (at(5), false));
        let (down, changed) = up.heard(false, &check, at(12));
        assert_eq!((down.standing, down.since, changed), (Standing::Down, at(12), true));
    }

    #[test]
    fn pauses_are_around_the_interval_and_differ() {
        let mut rng = SmallRng::seed_from_u64(3);
        let pauses: Vec<_> = (0..1000).map(|_| pause(Duration::from_secs(2), &mut rng).as_millis()).collect();
        assert!(pauses.iter().all(|pause| (1800..=2200).contains(pause)));
        assert!(pauses.iter().any(|pause| *pause < 1850) && pauses.iter().any(|pause| *pause > 2150));
    }

    proptest! {
        /// Against an obvious model: the standing is the last run of answers that was long enough.
        #[test]
        fn any_course_is_that_of_the_last_long_run(
            answers in prop::collection::vec(any::<bool>(), 1..200), down in 1..5u32, up in 1..5u32,
        ) {
            let check = check(down, up);
            let mut course = Course::begun(at(0));
            let (mut model, mut run) = (None, (answers[0], 0));
            for (nth, well) in answers.into_iter().enumerate() {
                let before = course.standing;
                let (next, changed) = course.heard(well, &check, at(nth + 1));
                course = next;
                run = if run.0 == well { (well, run.1 + 1) } else { (well, 1) };
                if model.is_none() || run.1 >= if well { up } else { down } {
                    model = Some(well);
                }
                let expected = if model == Some(true) { Standing::Up } else { Standing::Down };
                prop_assert_eq!(course.standing, expected);
                prop_assert_eq!(changed, before != expected);
            }
        }
    }
}
