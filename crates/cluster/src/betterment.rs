//! When an instance that runs should move to a better placement: when a device has come that makes it much faster, and stays.

use std::time::Duration;

use crate::Time;

/// Factor by which a placement has to be faster to be worth a move, by prediction: what planning does not see is below that.
const GAIN: f64 = 1.2;
/// Factor below which a better placement is none any more.
const GAIN_KEPT: f64 = 1.1;
/// How long it has to be better: a device that has just come may have been carried past.
const HOLD: Duration = Duration::from_secs(10);
/// Shortest time between two such moves of an instance. Each costs those who wait for an answer a pause.
const REST: Duration = Duration::from_secs(120);

/// What to do about a better placement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Advice {
    /// It is not better by enough, or not for long enough.
    Stay,
    /// It is better, and people may be told; but the last move was not long ago.
    Suggest,
    /// It is better, and a move is due.
    Move,
}

/// Watches one instance.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Betterment {
    better_since: Option<Time>,
    moved_at: Option<Time>,
}

impl Betterment {
    /// Takes in what is predicted now, in tokens per second or any other rate: of the placement as it is, and of the best.
    pub fn advise(&mut self, current: f64, best: f64, now: Time) -> Advice {
        let limit = if self.better_since.is_some() { GAIN_KEPT } else { GAIN };
        let is_better = best.is_finite() && best > 0.0 && best >= limit * current;
        if !is_better {
            self.better_since = None;
            return Advice::Stay;
        }
        let since = *self.better_since.get_or_insert(now);
        if now.saturating_sub(since) < HOLD {
            Advice::Stay
        } else if self.is_rested(now) {
            Advice::Move
        } else {
            Advice::Suggest
        }
    }

    /// Whether the last move is long enough ago for another one that nobody asked for.
    pub fn is_rested(&self, now: Time) -> bool {
        self.moved_at.is_none_or(|at| now.saturating_sub(at) >= REST)
    }

    /// Whether a rate is better than another by enough for a move.
    pub fn is_worth(current: f64, best: f64) -> bool {
        best.is_finite() && best >= GAIN * current
    }

    /// Notes that the instance has moved, for whatever reason, or that this was tried.
    pub fn moved(&mut self, now: Time) {
        *self = Self { better_since: None, moved_at: Some(now) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(seconds: u64) -> Time {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_placement_has_to_be_better_for_a_while() {
        let mut it = Betterment::default();
        assert_eq!(it.advise(10.0, 11.9, s(0)), Advice::Stay);
        assert_eq!(it.advise(10.0, 12.0, s(1)), Advice::Stay);
        assert_eq!(it.advise(10.0, 11.5, s(10)), Advice::Stay, "kept, by hysteresis");
        assert_eq!(it.advise(10.0, 11.5, s(11)), Advice::Move);
        assert_eq!(it.advise(10.0, 10.9, s(12)), Advice::Stay);
        assert_eq!(it.advise(10.0, 11.5, s(40)), Advice::Stay, "it begins anew");
    }

    #[test]
    fn a_device_that_comes_and_goes_moves_nothing() {
        let mut it = Betterment::default();
        for at in 0..1000 {
            let best = if at % 10 < 9 { 30.0 } else { 10.0 };
            assert_eq!(it.advise(10.0, best, s(at)), Advice::Stay, "{at} s");
        }
    }

    #[test]
    fn two_placements_that_each_look_better_from_the_other_do_not_take_turns() {
        let mut it = Betterment::default();
        let mut moves = Vec::new();
        for at in 0..600 {
            if it.advise(10.0, 20.0, s(at)) == Advice::Move {
                moves.push(at);
                it.moved(s(at));
            }
        }
        assert_eq!(moves, [10, 130, 250, 370, 490]);
    }

    #[test]
    fn an_instance_that_stands_still_is_worth_any_move_and_nonsense_none() {
        let mut it = Betterment::default();
        assert_eq!(it.advise(0.0, 1.0, s(0)), Advice::Stay);
        assert_eq!(it.advise(0.0, 1.0, s(10)), Advice::Move);
        for best in [f64::NAN, f64::INFINITY, 0.0] {
            assert_eq!(Betterment::default().advise(0.0, best, s(10)), Advice::Stay);
        }
        assert!(Betterment::is_worth(10.0, 12.0) && !Betterment::is_worth(10.0, 11.9));
    }
}
