//! Which worker a new connection should go to, where long-lived ones have piled up on another.

/// What a worker has to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Of its time over about the last second, in thousandths.
    pub busy: u64,
    /// Client connections that are open.
    pub open: u64,
}

/// How much busier a worker must be than another to give its new connections away, in thousandths.
const BUSIER: u64 = 250;

/// The worker to hand a new connection of `own` to; None when it may as well stay. Even only nearly: workers that have
/// equally little to do differ by no more than an eighth and one connection, as long as none are closed.
pub fn less_loaded(own: usize, loads: &[Load]) -> Option<usize> {
    let mine = *loads.get(own)?;
    let (at, other) =
        loads.iter().enumerate().filter(|(at, _)| *at != own).min_by_key(|(_, of)| (of.busy / BUSIER, of.open))?;
    let much_busier = mine.busy >= other.busy + BUSIER && other.open <= 2 * mine.open + 8;
    let as_busy = other.busy <= mine.busy + BUSIER / 2;
    let has_more = mine.open > other.open + other.open / 8;
    (much_busier || as_busy && has_more).then_some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(loads: &[(u64, u64)]) -> Option<usize> {
        let loads: Vec<_> = loads.iter().map(|&(busy, open)| Load { busy, open }).collect();
        less_loaded(0, &loads)
    }

    #[test]
    fn a_busy_worker_gives_new_ones_away_whatever_the_numbers() {
        assert_eq!(given(&[(900, 2), (100, 3)]), Some(1));
        assert_eq!(given(&[(900, 2), (100, 200)]), None, "until the other has enough of them");
        assert_eq!(given(&[(900, 9), (800, 5), (300, 50), (350, 4)]), None.or(Some(3)));
    }

    #[test]
    fn an_idle_worker_with_many_gives_none_to_a_busy_one() {
        assert_eq!(given(&[(50, 100), (700, 3)]), None);
        assert_eq!(given(&[(50, 1000), (100, 990)]), None, "equal enough");
        assert_eq!(given(&[(0, 0)]), None, "one worker");
    }

    proptest::proptest! {
        #[test]
        fn workers_with_little_to_do_differ_by_an_eighth_and_one(
            workers in 1_usize..9, arrivals in proptest::collection::vec((0_usize..8, 0_u64..=BUSIER / 2), 0..300),
        ) {
            let mut open = vec![0_u64; workers];
            for (own, busy) in arrivals {
                let own = own % workers;
                let load = |(at, open): (usize, &u64)| Load { busy: if at == own { 0 } else { busy }, open: *open };
                let loads: Vec<_> = open.iter().enumerate().map(load).collect();
                open[less_loaded(own, &loads).unwrap_or(own)] += 1;
                let (least, most) = (open.iter().min().unwrap(), open.iter().max().unwrap());
                proptest::prop_assert!(*most <= least + least / 8 + 1, "{open:?}");
            }
        }
    }
}
