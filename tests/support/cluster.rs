//! Several servers as one Redis Cluster, and the moving of a slot step by step.

use super::client::Client;
use super::server::{Builder, Server};
use super::value::{Value, ok};
use super::{SOON, args, eventually};
use std::time::Duration;

const SLOTS: usize = 16384;
/// A new cluster refuses queries for its first two seconds, and gossip takes longer.
const FORMATION: Duration = Duration::from_secs(60);

/// A running cluster. The node time-out is 2 s; to change it: `.arg("--cluster-node-timeout")`.
pub struct Cluster {
    /// The masters in the order of their slots, then the replicas as they were added.
    pub nodes: Vec<Server>,
    options: Builder,
}

impl Cluster {
    /// Starts `masters` servers that share all slots evenly, and waits until each of them finds the
    /// cluster in order. The options are those of every node: `Cluster::start(3, Server::builder())`.
    #[track_caller]
    pub fn start(masters: usize, options: Builder) -> Self {
        let options = options.cluster(true);
        let nodes: Vec<_> = (0..masters).map(|_| options.clone().start()).collect();
        for (index, node) in nodes.iter().enumerate() {
            let mut client = node.client();
            let (first, end) = (index * SLOTS / masters, (index + 1) * SLOTS / masters);
            assert_eq!(client.run(format!("CLUSTER SET-CONFIG-EPOCH {}", index + 1)), ok());
            assert_eq!(client.run(format!("CLUSTER ADDSLOTSRANGE {first} {}", end - 1)), ok());
            nodes[..index].iter().for_each(|other| meet(&mut client, other));
        }
        let cluster = Self { nodes, options };
        cluster.wait_formed();
        cluster
    }

    /// Starts a replica of a node and waits until all nodes know it and it is in sync; returns its
    /// index.
    #[track_caller]
    pub fn add_replica(&mut self, master: usize) -> usize {
        let replica = self.options.clone().start();
        let mut client = replica.client();
        self.nodes.iter().for_each(|node| meet(&mut client, node));
        self.nodes.push(replica);
        self.wait_formed();
        let master = self.id(master);
        assert_eq!(client.run(format!("CLUSTER REPLICATE {master}")), ok());
        eventually(SOON, "the replica's link is up", || {
            client.info("replication", "master_link_status").as_deref() == Some("up")
        });
        let own_id = self.id(self.nodes.len() - 1);
        for node in &self.nodes {
            let mut client = node.client();
            eventually(SOON, "all nodes know the replica", || {
                let replicas = client.run(format!("CLUSTER REPLICAS {master}"));
                replicas.items().iter().any(|line| line.as_str().starts_with(&own_id))
            });
        }
        self.nodes.len() - 1
    }

    /// The index of the node that serves a slot, according to the first node that runs.
    #[track_caller]
    pub fn node_of_slot(&self, slot: u16) -> usize {
        let mut client = self
            .nodes
            .iter()
            .find_map(|node| Client::try_connect(node.port()).ok())
            .expect("no node runs");
        let port =
            port_of_slot(&mut client, slot).unwrap_or_else(|| panic!("nobody serves slot {slot}"));
        self.nodes
            .iter()
            .position(|node| node.port() == port)
            .unwrap_or_else(|| panic!("a stranger on port {port} serves slot {slot}"))
    }

    /// The node that serves a key.
    #[track_caller]
    pub fn node_for(&self, key: impl AsRef<[u8]>) -> &Server {
        &self.nodes[self.node_of_slot(slot_of(key))]
    }

    /// A connection to the node that serves a key.
    #[track_caller]
    pub fn client_for(&self, key: impl AsRef<[u8]>) -> Client {
        self.node_for(key).client()
    }

    /// A node's id in the cluster.
    #[track_caller]
    pub fn id(&self, node: usize) -> String {
        self.nodes[node].client().run("CLUSTER MYID").as_str().to_owned()
    }

    /// Waits until all nodes agree that a node serves a slot.
    #[track_caller]
    pub fn wait_owner(&self, slot: u16, owner: usize) {
        for node in &self.nodes {
            let mut client = node.client();
            eventually(SOON, "all nodes agree on the slot's owner", || {
                port_of_slot(&mut client, slot) == Some(self.nodes[owner].port())
            });
        }
    }

    /// Begins to move a slot to another node: it is migrating at its node and importing at the other
    /// until [`Reshard::finish`].
    #[track_caller]
    pub fn reshard(&self, slot: u16, to: usize) -> Reshard<'_> {
        let from = self.node_of_slot(slot);
        assert_ne!(from, to, "node {to} has slot {slot} already");
        let reshard = Reshard { cluster: self, slot, from, to };
        reshard.set_slot(to, &format!("IMPORTING {}", self.id(from)));
        reshard.set_slot(from, &format!("MIGRATING {}", self.id(to)));
        reshard
    }

    #[track_caller]
    fn wait_formed(&self) {
        let (count, slots) = (self.nodes.len().to_string(), SLOTS.to_string());
        for node in &self.nodes {
            let mut client = node.client();
            let mut last = Value::Null;
            let formed = || {
                last = client.run("CLUSTER INFO");
                let has = |field: &str, value: &str| {
                    last.as_str().lines().any(|line| line == format!("{field}:{value}"))
                };
                has("cluster_state", "ok")
                    && has("cluster_known_nodes", &count)
                    && has("cluster_slots_ok", &slots)
            };
            eventually(FORMATION, "the cluster is in order", formed);
        }
    }
}

/// A slot on its way from one node to another.
#[must_use = "the slot stays half moved without `finish` or `cancel`"]
pub struct Reshard<'a> {
    cluster: &'a Cluster,
    slot: u16,
    /// The index of the node that the slot leaves.
    pub from: usize,
    /// The index of the node that gets it.
    pub to: usize,
}

impl Reshard<'_> {
    /// Moves all keys that are in the slot now; returns how many.
    #[track_caller]
    pub fn migrate_keys(&self) -> usize {
        let mut source = self.cluster.nodes[self.from].client();
        let mut moved = 0;
        loop {
            let keys = source.run(format!("CLUSTER GETKEYSINSLOT {} 100", self.slot));
            if keys.items().is_empty() {
                return moved;
            }
            let port = self.cluster.nodes[self.to].port();
            let mut command = args!["MIGRATE", "127.0.0.1", port, "", 0, 5000, "KEYS"].to_vec();
            command.extend(keys.items().iter().map(|key| key.bytes().to_vec()));
            assert_eq!(source.cmd(&command), ok(), "MIGRATE");
            moved += keys.items().len();
        }
    }

    /// Assigns the slot to its new node and waits until all nodes agree. The old node refuses while it
    /// still has keys of the slot.
    #[track_caller]
    pub fn finish(self) {
        let nodes = &self.cluster.nodes;
        let owner = self.cluster.id(self.to);
        // The new node first, so that the slot has an owner all the time.
        let others = (0..nodes.len()).filter(|&node| node != self.to && node != self.from);
        for node in [self.to, self.from].into_iter().chain(others) {
            if nodes[node].client().info("replication", "role").as_deref() == Some("master") {
                self.set_slot(node, &format!("NODE {owner}"));
            }
        }
        self.cluster.wait_owner(self.slot, self.to);
    }

    /// Cancels the move: the slot stays at its node, where its keys must still be.
    #[track_caller]
    pub fn cancel(self) {
        for node in [self.from, self.to] {
            self.set_slot(node, "STABLE");
        }
    }

    #[track_caller]
    fn set_slot(&self, node: usize, what: &str) {
        let mut client = self.cluster.nodes[node].client();
        let command = format!("CLUSTER SETSLOT {} {what}", self.slot);
        assert_eq!(client.run(&command), ok(), "{command} at node {node}");
    }
}

#[track_caller]
fn meet(client: &mut Client, node: &Server) {
    let command = format!("CLUSTER MEET 127.0.0.1 {} {}", node.port(), node.bus_port());
    assert_eq!(client.run(command), ok());
}

/// The port of the master that serves a slot, according to the node of `client`.
#[track_caller]
fn port_of_slot(client: &mut Client, slot: u16) -> Option<u16> {
    let ranges = client.run("CLUSTER SLOTS");
    let slot = i64::from(slot);
    ranges.items().iter().find_map(|range| match range.items() {
        [first, last, master, ..] if (first.as_int()..=last.as_int()).contains(&slot) => {
            Some(u16::try_from(master.items()[1].as_int()).expect("ports are 16 bits"))
        }
        _ => None,
    })
}

/// The slot of a key: that of its hash tag, the bytes between the first `{` and the next `}`, when
/// there are any.
pub fn slot_of(key: impl AsRef<[u8]>) -> u16 {
    let key = key.as_ref();
    let tag = key.iter().position(|&byte| byte == b'{').and_then(|open| {
        let rest = &key[open + 1..];
        let close = rest.iter().position(|&byte| byte == b'}')?;
        (close > 0).then(|| &rest[..close])
    });
    crc16(tag.unwrap_or(key)) % 16384
}

/// CRC-16/XMODEM.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, &byte| {
        (0..8).fold(crc ^ (u16::from(byte) << 8), |crc, _| {
            if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
        })
    })
}
