//! What the shop does: its products, mails and report.

use crate::locks::Held;
use crate::task::{Failure, Task};
use crate::worker::Handler;
use serde_json::Value;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

pub struct Shop {
    pub directory: PathBuf,
}

impl Shop {
    /// A look into the database, a directory. It takes as long as there is a file named `slow`, and fails if there is
    /// one named `away`.
    fn query(&self) -> Result<(), String> {
        while self.directory.join("slow").exists() {
            thread::sleep(Duration::from_millis(20));
        }
        if self.directory.join("away").exists() {
            Err("the database is away".into())
        } else {
            Ok(())
        }
    }

    /// Null for a product that does not exist, which is cached as well.
    pub fn product(&self, id: u64) -> Result<Value, String> {
        eprintln!("loading product {id}");
        self.query()?;
        match fs::read(self.directory.join(format!("product-{id}"))) {
            Ok(text) => serde_json::from_slice(&text).map_err(|error| error.to_string()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Value::Null),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Sends a mail once, although a task may run twice: its id is the same every time.
    fn send(&self, task: &Task, to: &Value, text: &str) -> Result<(), Failure> {
        let to = to.as_str().unwrap_or_default();
        if !to.contains('@') || to.contains('/') {
            return Err(Failure::Fatal(format!("{to:?} is no address")));
        }
        self.query().map_err(Failure::Error)?;
        let outbox = self.directory.join("outbox");
        fs::create_dir_all(&outbox)?;
        match File::create_new(outbox.join(format!("{} {to}", task.id))) {
            Ok(mut mail) => Ok(mail.write_all(text.as_bytes())?),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    pub fn letter(self: &Arc<Self>, text: &'static str) -> Handler {
        let shop = self.clone();
        Box::new(move |task| shop.send(task, &task.arguments()?["to"], text))
    }

    /// Takes long, so it looks whether it may go on. The next try finds what has been sent.
    pub fn newsletter(self: &Arc<Self>) -> Handler {
        let shop = self.clone();
        Box::new(move |task| {
            let arguments = task.arguments()?;
            let addresses = arguments.get("to").and_then(Value::as_array);
            for to in addresses.ok_or_else(|| Failure::Error("no addresses".into()))? {
                shop.send(task, to, "News")?;
                if task.interrupted() {
                    return Err(Failure::Later(Duration::ZERO));
                }
            }
            Ok(())
        })
    }

    /// Counts the mails. An older holder, which has been stopped for a while, does not overwrite a newer report.
    pub fn report(&self, held: &Held) -> Result<(), String> {
        eprintln!("report {} begins", held.fence);
        for _page in 0..5 {
            self.query()?;
            held.check()?;
        }
        let mails = fs::read_dir(self.directory.join("outbox")).map_or(0, Iterator::count);
        let file = self.directory.join("report");
        let before = fs::read_to_string(&file).unwrap_or_default();
        let newest = before.split(' ').next().and_then(|fence| fence.parse().ok()).unwrap_or(0);
        if newest > held.fence {
            return Err("there is a newer report".into());
        }
        eprintln!("report {} ends", held.fence);
        fs::write(file, format!("{} {mails}\n", held.fence)).map_err(|error| error.to_string())
    }
}
