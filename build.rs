//! Gives the library the id of the commit that it is built from: `INFO corral` and the log show it.

use std::env;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-env-changed=CORRAL_BUILD");
    // A commit, a checkout, or a change of the sources.
    for path in [".git/HEAD", ".git/logs/HEAD", "src"] {
        if std::path::Path::new(path).exists() {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    let build = env::var("CORRAL_BUILD").ok().or_else(commit).unwrap_or_else(|| "unknown".into());
    println!("cargo::rustc-env=CORRAL_BUILD={build}");
}

/// The current commit, marked if the sources differ from it. `None` outside a git checkout.
fn commit() -> Option<String> {
    let args = ["describe", "--always", "--abbrev=12", "--dirty", "--exclude=*"];
    let output = Command::new("git").args(args).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    Some(text.trim().to_owned()).filter(|text| output.status.success() && !text.is_empty())
}
