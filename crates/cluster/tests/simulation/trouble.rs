//! What goes wrong.

use shoal_cluster::Event;

use crate::{
    requests::How,
    world::{Message, Ms, What, World},
};

/// Requests come until so long after the last trouble.
const ASKED_UNTIL: Ms = 20_000;

impl World {
    pub(crate) fn make_trouble(&mut self) {
        let now = self.now;
        if now >= self.climate.trouble_ends {
            return;
        }
        let pause = self.random.between(1, 2 * self.climate.calm);
        self.at(now + pause, What::Trouble);
        let (a, b) = (self.random.index(self.nodes.len()), self.random.index(self.nodes.len()));
        // What follows the end of the trouble must heal.
        let until = (now + self.how_long()).min(self.climate.trouble_ends);
        match self.random.below(100) {
            0..=9 => self.cut_link(a, b, until),
            10..=13 => self.cut_one_way(a, b, until),
            14..=18 => self.cut_into_groups(until),
            19..=30 => self.freeze(a, until),
            31..=42 => self.crash(a, until),
            43..=48 => self.change_address(a),
            49..=50 => self.jump_clock(a),
            51..=70 if self.is_awake(a) && self.ledger.n_placed < self.climate.placed_max => {
                self.ledger.n_placed += 1;
                self.place_new(a);
            }
            71..=76 if self.is_awake(a) => self.unplace(a),
            77..=84 if self.is_awake(a) => self.crash_runner(a),
            85..=87 => self.evict(a),
            88..=90 => self.slow_down(a, until),
            91..=94 if self.is_awake(a) => self.move_instance(a),
            95 if self.is_awake(a) && self.nodes.len() > 3 => self.leave(a),
            96..=97 if self.is_awake(a) => self.cancel(a),
            _ => {}
        }
    }

    /// Somebody asks something; before long somebody else does.
    pub(crate) fn somebody_asks(&mut self) {
        if self.now > self.climate.trouble_ends + ASKED_UNTIL
            || self.requests.len() >= self.climate.requests_max
        {
            return;
        }
        let pause = self.random.between(1, 2 * self.climate.curiosity);
        self.at(self.now + pause, What::Ask);
        let node = self.random.index(self.nodes.len());
        if self.is_awake(node) {
            self.ask_something(node);
        }
    }

    /// A stage makes room.
    fn evict(&mut self, node: usize) {
        let held = self.nodes[node].runners.iter().flat_map(|(&instance, runner)| {
            runner.sequences.keys().map(move |&sequence| (instance, sequence))
        });
        let held: Vec<_> = held.collect();
        if let Some((instance, sequence)) = self.random.pick(&held) {
            self.trace(|| format!("{node}: sequence {} is evicted", sequence.1));
            let it = &mut self.nodes[node];
            it.runners.get_mut(&instance).expect("just listed").sequences.remove(&sequence);
            it.disturbed_at = self.now;
        }
    }

    fn slow_down(&mut self, node: usize, until: Ms) {
        let slowness = self.random.pick(&[10, 100, 500]).expect("some");
        self.trace(|| format!("{node}: is slow by {slowness} until {until}"));
        (self.nodes[node].slow_until, self.nodes[node].slowness) = (until, slowness);
    }

    fn cancel(&mut self, node: usize) {
        let driven: Vec<usize> = self.nodes[node].drivers.values().copied().collect();
        if let Some(request) = self.random.pick(&driven) {
            self.end_request(request, How::Cancelled);
        }
    }

    /// Mostly moments, sometimes minutes.
    fn how_long(&mut self) -> Ms {
        let longest = self.random.pick(&[1_000, 4_000, 10_000, 60_000]).expect("some");
        self.random.between(100, longest)
    }

    fn cut_link(&mut self, a: usize, b: usize, until: Ms) {
        if a != b {
            self.trace(|| format!("{a} and {b} are cut from each other until {until}"));
            self.cut(a, b, until);
            self.cut(b, a, until);
        }
    }

    fn cut_one_way(&mut self, a: usize, b: usize, until: Ms) {
        if a != b {
            self.trace(|| format!("{a} is cut from {b}, one way, until {until}"));
            self.cut(a, b, until);
        }
    }

    fn cut_into_groups(&mut self, until: Ms) {
        let n_groups = self.random.between(2, 3);
        let group: Vec<u64> = self.nodes.iter().map(|_| 0).collect();
        let group: Vec<u64> = group.iter().map(|_| self.random.below(n_groups)).collect();
        self.trace(|| format!("cut into groups {group:?} until {until}"));
        for a in 0..group.len() {
            for b in 0..group.len() {
                if group[a] != group[b] {
                    self.cut(a, b, until.max(self.cut_until(a, b)));
                }
            }
        }
    }

    fn freeze(&mut self, node: usize, until: Ms) {
        if !self.is_awake(node) {
            return;
        }
        self.trace(|| format!("{node}: freezes until {until}"));
        let now = self.now;
        let it = &mut self.nodes[node];
        (it.froze_at, it.frozen_until) = (now, until);
        it.moved_at = until;
        if it.clock_pauses {
            // It stands still from now on; nobody reads it before the node thaws.
            it.clock_lag += until - now;
        }
    }

    fn crash(&mut self, node: usize, until: Ms) {
        if !self.nodes[node].is_running {
            return;
        }
        let says_goodbye = self.random.chance(30) && self.is_awake(node);
        self.trace(|| format!("{node}: ends until {until}, goodbye: {says_goodbye}"));
        if says_goodbye {
            for conn in self.nodes[node].open.clone() {
                self.close(conn, node);
            }
        }
        self.kill(node);
        self.nodes[node].life += 1;
        if !self.random.chance(10) {
            self.at(until, What::Restart { node });
        }
    }

    fn change_address(&mut self, node: usize) {
        self.trace(|| format!("{node}: changes its address"));
        let it = &mut self.nodes[node];
        it.port += 1;
        it.moved_at = it.moved_at.max(self.now);
        if it.is_running && it.frozen_until <= self.now {
            it.record.addrs = vec![std::net::SocketAddr::from(([127, 0, 0, 1], it.port))];
            self.publish_stages(node);
            self.apply(node, Event::AddressesChanged);
        }
    }

    fn jump_clock(&mut self, node: usize) {
        let jump = i64::try_from(self.random.below(7_200_000)).expect("hours") - 3_600_000;
        self.nodes[node].wall_ahead += jump;
    }

    fn leave(&mut self, node: usize) {
        self.trace(|| format!("{node}: leaves for good"));
        self.tell_all(node, &Message::Leave);
        self.kill(node);
        self.nodes[node].life += 1;
        self.nodes[node].has_left = true;
    }
}
