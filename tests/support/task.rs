//! What a test of the queue says often: publish a task, lease one, read off a reply what came, have
//! a consumer wait.

use super::client::Client;
use super::server::{Server, blocked_clients, wait_blocked};
use super::value::Value;

impl Server {
    /// Sends a command that has to wait, and returns once the client is blocked.
    #[track_caller]
    pub fn wait_with(&self, client: &mut Client, line: &str) {
        let blocked = blocked_clients(self);
        client.send(line);
        wait_blocked(self, blocked + 1);
    }
}

impl Client {
    /// Publishes a task and returns its id.
    #[track_caller]
    pub fn publish(&mut self, stream: &str, payload: &str) -> String {
        let id = self.cmd(&["TASK.PUBLISH", stream, payload]);
        assert!(matches!(id, Value::Bulk(_)), "TASK.PUBLISH: {id:?}");
        id.as_str().to_owned()
    }

    /// Leases the next task of a group to a consumer and returns its id; panics if there is none.
    #[track_caller]
    pub fn lease(&mut self, group: &str, consumer: &str, stream: &str) -> String {
        let tasks = self.cmd(&["TASK.CONSUME", group, consumer, stream]);
        match tasks.task_ids()[..] {
            [id] => id.to_owned(),
            _ => panic!("not one task: {tasks:?}"),
        }
    }
}

impl Value {
    /// The ids of the tasks in a reply of `TASK.CONSUME`, in order; none in a nil. Panics for
    /// another reply, an error too.
    #[track_caller]
    pub fn task_ids(&self) -> Vec<&str> {
        self.tasks().iter().map(|task| task.items()[0].as_str()).collect()
    }

    /// As [`Value::task_ids`], but the payloads.
    #[track_caller]
    pub fn task_payloads(&self) -> Vec<&str> {
        self.tasks().iter().map(|task| task.items()[1].get("payload").as_str()).collect()
    }

    /// As [`Value::task_ids`], but the entries as they are.
    #[track_caller]
    pub fn tasks(&self) -> &[Value] {
        match self {
            nil if nil.is_nil() => &[],
            Self::Map(streams) => streams[0].1.items(),
            streams => streams.items()[0].items()[1].items(),
        }
    }
}
