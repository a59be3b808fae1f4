//! A cluster of processes, over some of which a model is spread; what was lost can be mended.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use serde_json::{Value, json};
use shoal_netlab::{Host, Segment};

use crate::{
    ask::{Answer, Ask},
    node::{Client, Machine, Node, wait},
    start::PATIENCE,
};

/// Nodes of one cluster. The first is the one that clients talk to.
#[derive(Debug)]
pub(crate) struct Fleet {
    pub(crate) nodes: Vec<Node>,
    wifi: Option<Wifi>,
    /// The instance that spans them, and over how many of them it was asked for.
    pub(crate) instance: String,
    n_stages: usize,
}

/// The network of a fleet that is not on loopback.
#[derive(Debug)]
struct Wifi {
    segment: Segment,
    hosts: Vec<Arc<Host>>,
    cut: BTreeSet<usize>,
    n_addresses: usize,
}

/// Where the instance is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Placed {
    pub(crate) epoch: u64,
    pub(crate) is_ready: bool,
    /// Indices of the nodes, in the order of the layers.
    pub(crate) stages: Vec<usize>,
}

impl Fleet {
    /// Starts nodes that meet on this machine's loopback interface.
    pub(crate) fn here(n: usize) -> Self {
        Self::here_with(n, &[])
    }

    /// The same, with further options.
    pub(crate) fn here_with(n: usize, options: &[&str]) -> Self {
        Self::start(vec![Machine::This; n], None, options)
    }

    /// Starts nodes on hosts of their own.
    pub(crate) fn on(segment: &Segment, n: usize) -> Self {
        let hosts: Vec<_> = (0..n)
            .map(|i| {
                let host = Host::new(&format!("node-{i}")).expect("a network");
                host.attach(segment, &address(i)).expect("a network");
                Arc::new(host)
            })
            .collect();
        let machines = hosts.iter().map(|host| Machine::Host(Arc::clone(host))).collect();
        let segment = segment.clone();
        let wifi = Wifi { segment, hosts, cut: BTreeSet::new(), n_addresses: n };
        Self::start(machines, Some(wifi), &[])
    }

    fn start(machines: Vec<Machine>, wifi: Option<Wifi>, options: &[&str]) -> Self {
        let mut nodes: Vec<Node> = Vec::new();
        for (i, machine) in machines.into_iter().enumerate() {
            let ticket = nodes.first().map(Node::ticket);
            let join = ticket.iter().flat_map(|ticket| ["--join", ticket.as_str()]);
            let extra: Vec<&str> = join.chain(options.iter().copied()).collect();
            nodes.push(Node::start(machine, &format!("node-{i}"), &extra));
        }
        Self { nodes, wifi, instance: String::new(), n_stages: 0 }
    }

    pub(crate) fn client(&self) -> Client {
        self.nodes[0].client()
    }

    /// The answer of the nodes together, whatever happens meanwhile.
    pub(crate) fn ask(&self, ask: &Ask) -> Answer {
        self.client().ask(&self.instance, ask, |_| true)
    }

    /// Spreads the demonstration model over this many nodes, and drops whatever else is placed of it.
    pub(crate) fn place(&mut self, n_stages: usize) -> Result<(), String> {
        let client = self.client();
        wait("no old instance", PATIENCE, || {
            let (status, _) = client.send("DELETE", "/instance/demo", &Value::Null)?;
            Ok(status == 404)
        })?;
        let body = json!({"model": "demo", "nodes": n_stages});
        let (status, placed) = client.send("POST", "/place_instance", &body)?;
        if status != 200 {
            return Err(format!("over {n_stages} nodes: {placed}"));
        }
        placed["id"].as_str().expect("text").clone_into(&mut self.instance);
        self.n_stages = n_stages;
        match self.placed() {
            Ok(it) if it.stages.len() == n_stages => Ok(()),
            other => Err(format!("over {n_stages} nodes: {other:?}")),
        }
    }

    /// Where the instance is, as the first node knows it.
    pub(crate) fn placed(&self) -> Result<Placed, String> {
        let state = self.client().state()?;
        let instances = state["instances"].as_array().into_iter().flatten();
        let mine = instances.into_iter().find(|it| it["id"] == self.instance.as_str());
        let mine = mine.ok_or_else(|| format!("no instance {}", self.instance))?;
        let stages = mine["placement"].as_array().expect("a list").iter();
        let of = |id: &Value| self.nodes.iter().position(|node| *id == node.id.as_str());
        Ok(Placed {
            epoch: mine["epoch"].as_u64().expect("a number"),
            is_ready: mine["state"] == "ready",
            stages: stages.filter_map(|stage| of(&stage["node"])).collect(),
        })
    }

    /// Waits until the first node sees all of them alive, and each other one does too.
    pub(crate) fn wait_for_all(&self) -> Result<(), String> {
        for node in &self.nodes {
            let what = format!("{} sees {} nodes alive", node.name, self.nodes.len());
            wait(&what, PATIENCE, || {
                let state = node.client().state()?;
                let nodes = state["nodes"].as_array().into_iter().flatten();
                let n_alive = nodes.filter(|node| node["liveness"] == "alive").count();
                if n_alive == self.nodes.len() { Ok(true) } else { Err(format!("{n_alive}")) }
            })?;
        }
        Ok(())
    }

    /// Brings back all that was lost and spreads the model as it was.
    pub(crate) fn mend(&mut self) -> Result<(), String> {
        for i in 0..self.nodes.len() {
            self.reconnect(i);
            let node = &mut self.nodes[i];
            if node.is_dead {
                node.restart();
            } else if node.is_frozen {
                node.thaw();
            }
            if node.is_drained {
                node.drain(false);
            }
        }
        self.wait_for_all()?;
        self.wait_for_quiet()?;
        self.place(self.n_stages)
    }

    /// Waits until no answer is under way.
    pub(crate) fn wait_for_quiet(&self) -> Result<(), String> {
        wait("no request under way", Duration::from_secs(20), || {
            Ok(self.client().state()?["n_requests"] == 0)
        })?;
        Ok(())
    }

    /// The end of what each node logged.
    pub(crate) fn logs(&self, n_lines: usize) -> String {
        let logs = self.nodes.iter().map(|it| format!("--- {}\n{}\n", it.name, it.log(n_lines)));
        logs.collect()
    }

    /// Has another node join, on loopback.
    pub(crate) fn join(&mut self) {
        let name = format!("node-{}", self.nodes.len());
        let ticket = self.nodes[0].ticket();
        self.nodes.push(Node::start(Machine::This, &name, &["--join", &ticket]));
    }

    /// Has a node leave for good.
    pub(crate) fn leave(&mut self, i: usize) {
        let mut node = self.nodes.remove(i);
        if node.is_dead {
            node.restart();
        } else if node.is_frozen {
            node.thaw();
        }
        // Alone it may still be asked: that it cannot be told any more is no fault of its own.
        let _ = node.client().send("POST", "/leave", &json!({}));
        node.end();
    }

    /// Takes a node out of reach; its own interface notices nothing.
    pub(crate) fn disconnect(&mut self, i: usize) {
        let wifi = self.wifi.as_mut().expect("a fleet with links");
        wifi.segment.cut(&wifi.hosts[i], true);
        wifi.cut.insert(i);
    }

    /// Brings a node back into reach, if it is out of it.
    pub(crate) fn reconnect(&mut self, i: usize) {
        let Some(wifi) = self.wifi.as_mut() else { return };
        if wifi.cut.remove(&i) {
            wifi.segment.cut(&wifi.hosts[i], false);
        }
    }

    /// Takes a node's interface down and up again, with another address.
    pub(crate) fn reset(&mut self, i: usize) {
        let wifi = self.wifi.as_mut().expect("a fleet with links");
        let host = &wifi.hosts[i];
        host.ip(&["link", "set", "eth0", "down"]).expect("it has one");
        wifi.n_addresses += 1;
        host.change_address("eth0", &address(wifi.n_addresses)).expect("a free address");
        host.ip(&["link", "set", "eth0", "up"]).expect("it has one");
    }

    /// Gives a node's interface another address.
    pub(crate) fn readdress(&mut self, i: usize) {
        let wifi = self.wifi.as_mut().expect("a fleet with links");
        wifi.n_addresses += 1;
        let address = address(wifi.n_addresses);
        wifi.hosts[i].change_address("eth0", &address).expect("a free address");
    }
}

/// An address that no other node of the fleet had lately.
fn address(i: usize) -> String {
    format!("10.0.{}.{}/16", i / 200 % 200, 2 + i % 200)
}
