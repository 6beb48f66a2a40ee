//! The one owner of all state. The server layer calls back here, and every call is handed on to the
//! families.

use crate::args::Args;
use crate::cache::Cache;
use crate::command::Command;
use crate::context::Context;
use crate::error::Error;
use crate::family::Family;
use crate::interest::Interest;
use crate::lock::Lock;
use crate::server::config::Setting;
use crate::server::events::{KeyChange, KeyEvent};
use crate::server::guard::{guard, panics};
use crate::server::info::Section;
use crate::server::register::{Entry, Handle, handler};
use crate::server::timer::OnFire;
use crate::server::{self, MainThread, Server, Str};
use crate::task::Task;
use crate::waiting::{self, connection};
use std::cell::RefCell;
use std::marker::PhantomData;
use std::rc::Rc;

/// Everything that the module remembers. It is shared, never borrowed mutably as a whole: while an
/// inner command runs, events and other commands come back here.
pub struct Corral {
    cache: Rc<Cache>,
    lock: Rc<Lock>,
    task: Rc<Task>,
    interest: Rc<Interest>,
}

static CORRAL: MainThread<RefCell<Option<Rc<Corral>>>> = MainThread::new(RefCell::new(None));

/// The state, while the module is loaded.
fn corral() -> Option<Rc<Corral>> {
    CORRAL.get().borrow().clone()
}

/// A family that is a part of [`Corral`].
pub trait Part: Family {
    /// Its state.
    fn of(corral: &Corral) -> &Rc<Self>;
}

impl Part for Cache {
    fn of(corral: &Corral) -> &Rc<Self> {
        &corral.cache
    }
}

impl Part for Lock {
    fn of(corral: &Corral) -> &Rc<Self> {
        &corral.lock
    }
}

impl Part for Task {
    fn of(corral: &Corral) -> &Rc<Self> {
        &corral.task
    }
}

fn with<F: Part>(server: &Server, call: impl FnOnce(Context<'_, F>)) {
    if let Some(corral) = corral() {
        call(Context { server, family: F::of(&corral) });
    }
}

/// A command as the server layer runs it.
struct Run<C>(PhantomData<C>);

impl<C: Command> Run<C> {
    const NAME: &'static str = match C::SPEC.name.to_str() {
        Ok(name) => name,
        Err(_) => "",
    };
}

impl<C: Command<Family: Part>> Handle for Run<C> {
    fn handle<'a>(server: &'a Server, args: &'a [Str<'a>]) {
        let Some(corral) = corral() else {
            return server.answer(&Err(Error::Internal));
        };
        let cx = Context { server, family: C::Family::of(&corral) };
        let run = || {
            let mut args = Args::new(args.get(1..).unwrap_or_default(), Self::NAME, server::now);
            let request = C::parse(&mut args)?;
            args.finish()?;
            C::run(request, &cx)
        };
        let outcome = guard(Err(Error::Internal), run);
        server.answer(&outcome);
    }
}

/// The row of a command in the table of commands.
pub const fn entry<C: Command<Family: Part>>() -> Entry {
    Entry { spec: C::SPEC, handler: handler::<Run<C>> }
}

/// Creates the state when the module is loaded, and returns its settings.
pub fn load(_server: &Server) -> Vec<Setting> {
    // How many bytes of replies one wave may take. The rest follows after the server has attended to
    // its other clients.
    let wave_bytes = Setting::new(c"wake-bytes", 8 << 20, 1, 1 << 32);
    fn part<F: Part>(wave_bytes: &Setting, interest: &Rc<Interest>) -> Rc<F> {
        let on_fire: OnFire = |server| with::<F>(server, waiting::on_timer);
        Rc::new(F::new(on_fire, wave_bytes.clone(), interest))
    }
    let interest = Rc::new(Interest::default());
    let corral = Corral {
        cache: part(&wave_bytes, &interest),
        lock: part(&wave_bytes, &interest),
        task: part(&wave_bytes, &interest),
        interest,
    };
    let mut settings = vec![wave_bytes];
    settings.extend(corral.cache.settings());
    settings.extend(corral.lock.settings());
    settings.extend(corral.task.settings());
    CORRAL.get().replace(Some(Rc::new(corral)));
    settings
}

/// Drops the state before the module is unloaded.
pub fn unload(server: &Server) {
    fn disarm<F: Part>(cx: Context<'_, F>) {
        cx.family.queue().disarm(cx.server);
    }
    with::<Cache>(server, disarm);
    with::<Lock>(server, disarm);
    with::<Task>(server, disarm);
    CORRAL.get().take();
}

/// A key was changed. Every write of the server comes here once a family has subscribed, and nearly all
/// of them concern nobody, so those return early.
pub fn key_changed(server: &Server, change: &KeyChange<'_>) {
    let key = change.key;
    let is_known = |Corral { cache, interest, .. }: &Corral| {
        cache.record_changed(server, key);
        interest.contains(key) || Task::owner(key).is_some_and(|owner| interest.contains(owner))
    };
    if CORRAL.get().borrow().as_deref().is_some_and(is_known) {
        known_key_changed(server, change.event());
    }
}

#[inline(never)]
fn known_key_changed(server: &Server, event: KeyEvent<'_>) {
    let Some(corral) = corral() else { return };
    let Corral { cache, lock, task, .. } = &*corral;
    Cache::key_changed(Context { server, family: cache }, event);
    Lock::key_changed(Context { server, family: lock }, event);
    Task::key_changed(Context { server, family: task }, event);
}

/// Databases were flushed, swapped or replaced; all of them if none is given.
pub fn databases_changed(server: &Server, dbs: &[i32]) {
    fn change<F: Part>(cx: Context<'_, F>, dbs: &[i32]) {
        cx.family.databases_changed(dbs);
        cx.family.queue().ties.forget(dbs);
        waiting::serve_databases_soon(cx, dbs);
    }
    with::<Cache>(server, |cx| change(cx, dbs));
    with::<Lock>(server, |cx| change(cx, dbs));
    with::<Task>(server, |cx| change(cx, dbs));
}

/// The connection of a client has closed.
pub fn client_gone(server: &Server, client: u64) {
    with::<Cache>(server, |cx| connection::client_gone(cx, client));
    with::<Lock>(server, |cx| connection::client_gone(cx, client));
    with::<Task>(server, |cx| connection::client_gone(cx, client));
}

/// A setting was changed: waiters may have to be served sooner, or later.
pub fn settings_changed(server: &Server) {
    with::<Cache>(server, |cx| waiting::serve_databases_soon(cx, &[]));
    with::<Lock>(server, |cx| waiting::serve_databases_soon(cx, &[]));
    with::<Task>(server, |cx| waiting::serve_databases_soon(cx, &[]));
}

/// The server's periodic event.
pub fn periodic(server: &Server) {
    fn run<F: Part>(cx: Context<'_, F>) {
        cx.family.queue().rearm_if_late(cx.server);
        connection::drop_ended(cx);
        cx.family.periodic(cx.server.moment());
    }
    with::<Cache>(server, run);
    with::<Lock>(server, run);
    with::<Task>(server, run);
}

/// Writes the module's section of INFO.
pub fn info(section: &mut Section) {
    fn totals<F: Part>(corral: &Corral, section: &mut Section) {
        F::of(corral).counters(&mut |name, value| section.number(name, value));
    }
    fn gauges<F: Part>(corral: &Corral, section: &mut Section) {
        let queue = F::of(corral).queue();
        section.number(F::WAITERS, queue.lines.len() as u64);
        section.number(F::TIES, queue.ties.len() as u64);
    }
    let Some(corral) = corral() else { return };
    section.text("version", env!("CARGO_PKG_VERSION"));
    section.text("build", env!("CORRAL_BUILD"));
    section.number("panics", panics());
    totals::<Cache>(&corral, section);
    totals::<Lock>(&corral, section);
    totals::<Task>(&corral, section);
    gauges::<Cache>(&corral, section);
    gauges::<Lock>(&corral, section);
    gauges::<Task>(&corral, section);
}
