//! The schedule over virtual hours.

use super::*;
use crate::interfaces::InterfaceAddr;

const HOUR: Duration = Duration::from_secs(3600);

fn interface(name: &str, addrs: &[(&str, u8)]) -> Interface {
    let addr = |(ip, prefix_len): &(&str, u8)| InterfaceAddr {
        ip: ip.parse().unwrap(),
        prefix_len: *prefix_len,
    };
    Interface { name: name.to_owned(), index: 1, addrs: addrs.iter().map(addr).collect() }
}

fn home() -> Vec<Interface> {
    vec![interface("wlan0", &[("192.168.1.5", 24)])]
}

/// All steps until a time, each with its own.
fn run(schedule: &mut Schedule, until: Duration) -> Vec<(Duration, Step)> {
    let mut steps = Vec::new();
    while let Some(at) = schedule.next_at().filter(|at| *at <= until) {
        let due = schedule.due(at);
        assert!(!due.is_empty(), "nothing to do at {at:?}: {schedule:?}");
        steps.extend(due.into_iter().map(|step| (at, step)));
    }
    steps
}

fn started(seed: u64) -> Schedule {
    let mut schedule = Schedule::new(seed);
    schedule.set_interfaces(&home(), Duration::ZERO);
    schedule.set_looking(Some(&[]), Duration::ZERO);
    schedule
}

fn times(steps: &[(Duration, Step)], is: impl Fn(&Step) -> bool) -> Vec<Duration> {
    steps.iter().filter(|(_, step)| is(step)).map(|(at, _)| *at).collect()
}

fn is_round(step: &Step) -> bool {
    *step == Step::Round
}

fn is_probe(step: &Step) -> bool {
    matches!(step, Step::Probe(_))
}

#[test]
fn who_looks_for_nobody_sends_nothing() {
    let mut schedule = Schedule::new(1);
    schedule.set_interfaces(&home(), Duration::ZERO);
    schedule.restart(Duration::from_secs(1));
    assert_eq!(schedule.next_at(), None);
    assert_eq!(schedule.due(HOUR), []);
    schedule.set_looking(Some(&[]), HOUR);
    assert!(schedule.next_at().is_some());
    schedule.set_looking(None, HOUR);
    assert_eq!(run(&mut schedule, 100 * HOUR), []);
}

#[test]
fn rounds_come_at_once_then_at_doubling_gaps_up_to_half_a_minute() {
    let steps = run(&mut started(7), Duration::from_secs(300));
    let rounds = times(&steps, is_round);
    assert_eq!(rounds[0], Duration::ZERO);
    for (idx, pair) in rounds.windows(2).enumerate() {
        let nominal =
            (ROUND_GAP * 2_u32.pow(u32::try_from(idx.min(10)).unwrap())).min(ROUND_GAP_MAX);
        let gap = pair[1] - pair[0];
        assert!(gap >= nominal * 9 / 10 && gap <= nominal * 11 / 10, "{idx}: {gap:?}");
    }
}

#[test]
fn a_sweep_probes_every_neighbour_once_within_three_seconds() {
    let steps = run(&mut started(7), Duration::from_secs(10));
    let probes: BTreeSet<_> = steps.iter().map(|(_, step)| *step).filter(is_probe).collect_ips();
    let at = times(&steps, is_probe);
    assert_eq!(at.len(), 253);
    assert_eq!(probes.len(), 253);
    assert!(!probes.contains(&IpAddr::from([192, 168, 1, 5])));
    assert_eq!(at[0], SWEEP_AFTER);
    assert!(*at.last().unwrap() - at[0] < Duration::from_secs(3));
}

trait CollectIps {
    fn collect_ips(self) -> BTreeSet<IpAddr>;
}

impl<I: Iterator<Item = Step>> CollectIps for I {
    fn collect_ips(self) -> BTreeSet<IpAddr> {
        self.filter_map(|step| match step {
            Step::Probe(ip) | Step::Hint(ip) => Some(ip),
            Step::Round => None,
        })
        .collect()
    }
}

#[test]
fn whoever_looks_for_hours_stays_within_the_bounds() {
    for seed in 0..20 {
        let steps = run(&mut started(seed), 10 * HOUR);
        for (idx, (at, _)) in steps.iter().enumerate() {
            let second = steps[idx..].iter().take_while(|(t, _)| *t < *at + Duration::from_secs(1));
            assert!(second.count() <= 110, "seed {seed} at {at:?}");
        }
        let last_hour = steps.iter().filter(|(at, _)| *at >= 9 * HOUR);
        let last_hour: Vec<_> = last_hour.copied().collect();
        assert!(times(&last_hour, is_round).len() <= 134, "seed {seed}");
        assert!(times(&last_hour, is_probe).len() <= 5 * 253, "seed {seed}");
    }
}

#[test]
fn sweeps_pause_for_a_minute_then_twice_as_long_up_to_a_quarter_of_an_hour() {
    let steps = run(&mut started(3), 2 * HOUR);
    let probes = times(&steps, is_probe);
    let mut starts = vec![probes[0]];
    for pair in probes.windows(2) {
        if pair[1] - pair[0] > Duration::from_secs(10) {
            starts.push(pair[1]);
        }
    }
    let pauses: Vec<_> = starts.windows(2).map(|pair| (pair[1] - pair[0]).as_secs()).collect();
    assert_eq!(pauses[..6], [60, 120, 240, 480, 900, 900]);
}

#[test]
fn an_answer_puts_off_the_sweep_and_the_end_of_the_search_ends_it() {
    let mut schedule = started(3);
    let steps = run(&mut schedule, Duration::from_millis(1400));
    assert!(times(&steps, is_probe).is_empty());
    schedule.heard(Duration::from_millis(1400));
    let steps = run(&mut schedule, Duration::from_millis(2800));
    assert!(times(&steps, is_probe).is_empty());
    let steps = run(&mut schedule, Duration::from_millis(3100));
    assert!(!times(&steps, is_probe).is_empty());
    schedule.set_looking(None, Duration::from_millis(3100));
    assert_eq!(schedule.due(Duration::from_secs(4)), []);
}

#[test]
fn flapping_buys_no_more_packets() {
    let mut schedule = started(5);
    let mut steps = Vec::new();
    for tick in 0..3600 {
        let now = Duration::from_secs(tick);
        schedule.set_looking(None, now);
        schedule.set_looking(Some(&[]), now);
        schedule.set_interfaces(&home(), now);
        steps.extend(run(&mut schedule, now + Duration::from_millis(999)));
    }
    assert!(times(&steps, is_round).len() <= 360 * 6, "{}", times(&steps, is_round).len());
    assert!(times(&steps, is_probe).len() <= 61 * 253, "{}", times(&steps, is_probe).len());
}

#[test]
fn remembered_hosts_are_asked_first_and_new_ones_without_a_new_start() {
    let hint = |host: u8| SocketAddr::from(([10, 0, 0, host], 7000));
    let mut schedule = Schedule::new(1);
    schedule.set_looking(Some(&[hint(1), hint(2), hint(1)]), Duration::ZERO);
    let (one, two) = (hint(1).ip(), hint(2).ip());
    let first = schedule.due(Duration::ZERO);
    assert_eq!(first, [Step::Hint(one), Step::Hint(two), Step::Round]);
    let next = schedule.next_at();
    schedule.set_looking(Some(&[hint(3)]), Duration::from_millis(1));
    assert_eq!(schedule.next_at(), next);
    assert_eq!(schedule.due(next.unwrap())[0], Step::Hint(hint(3).ip()));
    let many: Vec<_> = (0..=255).map(hint).collect();
    schedule.set_looking(Some(&many), Duration::from_secs(1));
    assert_eq!(schedule.due(Duration::from_secs(9)).len(), MAX_HINTS + 1);
}

#[test]
fn the_same_seed_sends_the_same() {
    assert_eq!(run(&mut started(9), HOUR), run(&mut started(9), HOUR));
    assert_ne!(run(&mut started(9), HOUR), run(&mut started(10), HOUR));
}

#[test]
fn a_sweep_keeps_to_small_parts_of_subnets_that_are_worth_it() {
    let of = |name, addrs: &[(&str, u8)]| hosts(&[interface(name, addrs)]);
    let lo = of("lo", &[("127.0.0.1", 8), ("::1", 128)]);
    assert_eq!(lo, [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)]);
    assert_eq!(of("wlan0", &[("10.1.2.3", 8)]).len(), 253);
    assert_eq!(of("wlan0", &[("192.168.43.1", 28)]).len(), 13);
    for (name, prefix_len) in [("wlan0", 31), ("wlan0", 32), ("docker0", 24), ("wg0", 24)] {
        assert!(of(name, &[("10.1.2.3", prefix_len)]).is_empty(), "{name}/{prefix_len}");
    }
    assert!(of("rmnet_data0", &[("10.1.2.3", 24)]).is_empty());
    let nets: Vec<_> = (0..9).map(|net| format!("10.0.{net}.1")).collect();
    let many: Vec<_> = nets.iter().map(|ip| (ip.as_str(), 24)).collect();
    assert_eq!(of("eth0", &many).len(), MAX_SWEEP_HOSTS);
}
