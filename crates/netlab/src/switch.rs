//! Where a frame goes, when, and whether: a switch without its devices, clock or thread.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use crate::frame::{self, Audience, Mac};

/// Frames that a segment holds at most; a real device's queue is shorter. With full frames, 24 MiB.
const N_HELD_MAX: usize = 16 * 1024;

/// A place where a host is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PortId(pub(crate) u64);

#[derive(Debug, Clone, Copy, Default)]
struct Port {
    /// The access point's own side: clients that are isolated from each other still reach it.
    is_access_point: bool,
    is_cut: bool,
}

/// What happened to a segment's frames since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Frames that reached a host; one that goes to three counts three times.
    pub n_delivered: u64,
    /// Frames to a group that the multicast filter took.
    pub n_multicast_dropped: u64,
    /// Frames to everybody that the broadcast filter took.
    pub n_broadcast_dropped: u64,
    /// Copies that isolation took.
    pub n_isolated: u64,
    /// Copies lost by chance.
    pub n_lost: u64,
    /// Copies for which there was no room.
    pub n_overflowed: u64,
}

/// How a segment treats frames.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Conditions {
    pub(crate) delay: Duration,
    /// What a frame may be under way for besides: any time up to this.
    pub(crate) jitter: Duration,
    pub(crate) drops_multicast: bool,
    pub(crate) drops_broadcast: bool,
    pub(crate) isolates: bool,
    pub(crate) is_paused: bool,
    /// Of 2³²; `None` loses nothing.
    pub(crate) loss: Option<u32>,
}

/// A frame on its way, ordered by when it arrives; in the order of coming where that is the same.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Held {
    due: Instant,
    n_before: u64,
    to: PortId,
    frame: Arc<[u8]>,
}

/// A learning switch.
#[derive(Debug, Default)]
pub(crate) struct Switch {
    ports: BTreeMap<PortId, Port>,
    stations: HashMap<Mac, PortId>,
    held: BinaryHeap<Reverse<Held>>,
    n_held_ever: u64,
    chance: u64,
    pub(crate) conditions: Conditions,
    pub(crate) counters: Counters,
}

impl Switch {
    pub(crate) fn add_port(&mut self, id: PortId, is_access_point: bool) {
        self.ports.insert(id, Port { is_access_point, is_cut: false });
    }

    /// Forgets a port, its stations and what was on the way to it.
    pub(crate) fn remove_port(&mut self, id: PortId) {
        self.ports.remove(&id);
        self.stations.retain(|_, port| *port != id);
    }

    pub(crate) fn set_cut(&mut self, id: PortId, is_cut: bool) {
        if let Some(port) = self.ports.get_mut(&id) {
            port.is_cut = is_cut;
        }
    }

    pub(crate) fn set_seed(&mut self, seed: u64) {
        self.chance = seed;
    }

    /// Takes a frame from a host.
    pub(crate) fn receive(&mut self, now: Instant, from: PortId, frame: &[u8]) {
        let Some(sender) = self.ports.get(&from).copied().filter(|port| !port.is_cut) else {
            return;
        };
        let Some((source, audience)) = frame::read(frame) else { return };
        self.stations.insert(source, from);
        if audience == Audience::Group && self.conditions.drops_multicast {
            self.counters.n_multicast_dropped += 1;
            return;
        }
        if audience == Audience::All && self.conditions.drops_broadcast {
            self.counters.n_broadcast_dropped += 1;
            return;
        }
        let known = match audience {
            Audience::One(to) => self.stations.get(&to).copied(),
            _ => None,
        };
        let frame: Arc<[u8]> = frame.into();
        let ports: Vec<_> = self.ports.iter().map(|(id, port)| (*id, *port)).collect();
        for (to, port) in ports {
            if to == from || known.is_some_and(|known| known != to) {
                continue;
            }
            let is_private = !port.is_access_point && !sender.is_access_point;
            if self.conditions.isolates && is_private {
                self.counters.n_isolated += 1;
            } else {
                self.hold(now, to, &frame);
            }
        }
    }

    fn hold(&mut self, now: Instant, to: PortId, frame: &Arc<[u8]>) {
        if self.conditions.loss.is_some_and(|loss| self.draw() < loss) {
            self.counters.n_lost += 1;
        } else if self.held.len() >= N_HELD_MAX {
            self.counters.n_overflowed += 1;
        } else {
            let mut due = now + self.conditions.delay;
            if !self.conditions.jitter.is_zero() {
                due += self.conditions.jitter.mul_f64(f64::from(self.draw()) / 2.0_f64.powi(32));
            }
            let n_before = self.n_held_ever;
            self.n_held_ever += 1;
            self.held.push(Reverse(Held { due, n_before, to, frame: Arc::clone(frame) }));
        }
    }

    /// SplitMix64 (Steele, Lea and Flood, 2014), its upper half.
    fn draw(&mut self) -> u32 {
        self.chance = self.chance.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.chance;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        u32::try_from((x ^ (x >> 31)) >> 32).expect("32 bits remain")
    }

    /// When the next frame arrives; nothing while the segment is paused.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        if self.conditions.is_paused {
            return None;
        }
        self.held.peek().map(|Reverse(held)| held.due)
    }

    /// Takes out the next frame that has arrived.
    pub(crate) fn arrived(&mut self, now: Instant) -> Option<(PortId, Arc<[u8]>)> {
        while self.next_due().is_some_and(|due| due <= now) {
            let Reverse(held) = self.held.pop()?;
            if self.ports.get(&held.to).is_some_and(|port| !port.is_cut) {
                self.counters.n_delivered += 1;
                return Some((held.to, held.frame));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BROADCAST: Mac = [0xff; 6];
    const GROUP: Mac = [0x01, 0, 0x5e, 0, 0, 251];
    const IPV4: u16 = 0x0800;
    const ARP: u16 = 0x0806;

    fn station(i: u8) -> Mac {
        [2, 0, 0, 0, 0, i]
    }

    fn frame(from: u8, to: Mac, kind: u16) -> Vec<u8> {
        [&to[..], &station(from), &kind.to_be_bytes(), &[0; 46]].concat()
    }

    fn switch(n_ports: u8) -> Switch {
        let mut switch = Switch::default();
        for i in 0..n_ports {
            switch.add_port(PortId(u64::from(i)), i == 0);
        }
        switch
    }

    fn arrivals(switch: &mut Switch, now: Instant) -> Vec<u64> {
        std::iter::from_fn(|| switch.arrived(now)).map(|(port, _)| port.0).collect()
    }

    #[test]
    fn floods_what_it_does_not_know_and_learns() {
        let now = Instant::now();
        let mut switch = switch(3);
        switch.receive(now, PortId(0), &frame(0, station(1), IPV4));
        assert_eq!(arrivals(&mut switch, now), [1, 2]);
        switch.receive(now, PortId(1), &frame(1, station(0), IPV4));
        assert_eq!(arrivals(&mut switch, now), [0]);
        switch.receive(now, PortId(0), &frame(0, station(1), IPV4));
        assert_eq!(arrivals(&mut switch, now), [1]);
    }

    #[test]
    fn holds_a_frame_for_its_delay_and_keeps_the_order() {
        let now = Instant::now();
        let mut switch = switch(3);
        switch.conditions.delay = Duration::from_millis(3);
        switch.receive(now, PortId(0), &frame(0, BROADCAST, ARP));
        assert!(arrivals(&mut switch, now + Duration::from_micros(2999)).is_empty());
        assert_eq!(switch.next_due(), Some(now + Duration::from_millis(3)));
        assert_eq!(arrivals(&mut switch, now + Duration::from_millis(3)), [1, 2]);
    }

    #[test]
    fn jitter_delays_within_its_bounds_and_lets_frames_overtake() {
        let now = Instant::now();
        let mut switch = switch(2);
        switch.conditions.delay = Duration::from_millis(3);
        switch.conditions.jitter = Duration::from_millis(47);
        let mut dues = Vec::new();
        for _ in 0..1000 {
            switch.receive(now, PortId(0), &frame(0, BROADCAST, ARP));
            let last = switch.held.iter().max_by_key(|Reverse(held)| held.n_before);
            dues.push(last.map(|Reverse(held)| held.due - now).unwrap());
        }
        let bounds = Duration::from_millis(3)..Duration::from_millis(50);
        assert!(dues.iter().all(|due| bounds.contains(due)));
        assert!(dues.iter().any(|due| *due < Duration::from_millis(5)));
        assert!(dues.iter().any(|due| *due > Duration::from_millis(48)));
        assert!(!dues.is_sorted());
    }

    #[test]
    fn filters_carry_address_resolution() {
        let now = Instant::now();
        let mut switch = switch(2);
        switch.conditions.drops_multicast = true;
        switch.conditions.drops_broadcast = true;
        switch.receive(now, PortId(0), &frame(0, GROUP, IPV4));
        switch.receive(now, PortId(0), &frame(0, BROADCAST, IPV4));
        assert!(arrivals(&mut switch, now).is_empty());
        switch.receive(now, PortId(0), &frame(0, BROADCAST, ARP));
        assert_eq!(arrivals(&mut switch, now), [1]);
        let counters = switch.counters;
        assert_eq!((counters.n_multicast_dropped, counters.n_broadcast_dropped), (1, 1));
    }

    #[test]
    fn isolated_clients_reach_the_access_point_alone() {
        let now = Instant::now();
        let mut switch = switch(3);
        switch.conditions.isolates = true;
        switch.receive(now, PortId(1), &frame(1, BROADCAST, ARP));
        assert_eq!(arrivals(&mut switch, now), [0]);
        switch.receive(now, PortId(0), &frame(0, BROADCAST, ARP));
        assert_eq!(arrivals(&mut switch, now), [1, 2]);
    }

    #[test]
    fn a_cut_host_neither_sends_nor_receives() {
        let now = Instant::now();
        let mut switch = switch(3);
        switch.set_cut(PortId(1), true);
        switch.receive(now, PortId(0), &frame(0, BROADCAST, ARP));
        assert_eq!(arrivals(&mut switch, now), [2]);
        switch.receive(now, PortId(1), &frame(1, BROADCAST, ARP));
        assert!(arrivals(&mut switch, now).is_empty());
    }

    #[test]
    fn a_paused_segment_keeps_frames_for_later() {
        let now = Instant::now();
        let mut switch = switch(2);
        switch.conditions.is_paused = true;
        switch.receive(now, PortId(0), &frame(0, BROADCAST, ARP));
        assert!(arrivals(&mut switch, now).is_empty());
        switch.conditions.is_paused = false;
        assert_eq!(arrivals(&mut switch, now), [1]);
    }

    #[test]
    fn loses_the_share_that_it_was_told() {
        let now = Instant::now();
        let mut switch = switch(2);
        switch.set_seed(7);
        switch.conditions.loss = Some(u32::MAX / 4);
        for _ in 0..4000 {
            switch.receive(now, PortId(0), &frame(0, BROADCAST, ARP));
        }
        let n_lost = switch.counters.n_lost;
        assert!((900..1100).contains(&n_lost), "{n_lost} of 4000 with a quarter");
        assert_eq!(u64::try_from(arrivals(&mut switch, now).len()), Ok(4000 - n_lost));
    }

    #[test]
    fn holds_no_more_than_its_bound() {
        let now = Instant::now();
        let mut switch = switch(2);
        switch.conditions.is_paused = true;
        for _ in 0..N_HELD_MAX + 5 {
            switch.receive(now, PortId(0), &frame(0, BROADCAST, ARP));
        }
        assert_eq!(switch.counters.n_overflowed, 5);
    }

    #[test]
    fn ignores_a_frame_without_a_header() {
        let now = Instant::now();
        let mut switch = switch(2);
        switch.receive(now, PortId(0), &[0xff; 13]);
        assert!(arrivals(&mut switch, now).is_empty());
    }
}
