//! A server's start and end: stands for `server::journal::open`. What is on disk is read, and goes on.

use std::rc::Rc;
use std::time::Duration;

use dflock::clock::Moment;
use dflock::server::journal::downtime::{self, Clocks, Times};
use dflock::server::journal::frame::Header;
use dflock::server::journal::kept::Kept;
use dflock::server::journal::record::{self, Record};
use dflock::server::journal::replay::replay;
use dflock::server::table::{Change, OldGrant, OldPlace, Table};

use super::check::Violation;
use super::env::Env;
use super::history::Site;
use super::server::{LIMITS, Running};
use super::writer::{Line, Writer};
use super::{MS, Plant, SECOND, World};

/// How long whoever starts servers waits after a start that failed.
const TRY_AGAIN: Duration = Duration::from_millis(500);

impl World {
    /// Starts a server now, however often that takes.
    pub fn start_server(self: &Rc<World>) {
        {
            let mut server = self.server.borrow_mut();
            if !server.powered {
                server.powered = true;
                server.boot[0] += 1;
                server.booted_at = self.now() - SECOND / 2;
            }
        }
        let process = self.new_process(0);
        self.server.borrow_mut().process = process;
        let env = Env { world: self.clone(), process };
        self.spawn(process, async move {
            env.sleep(Duration::from_nanos(20 * MS)).await;
            while !start(&env).await {
                env.tell("server", || "cannot start".to_owned());
                env.sleep(TRY_AGAIN).await;
            }
        });
    }
}

/// `false`: the disk does not let it.
async fn start(env: &Env) -> bool {
    let world = &env.world;
    let now = clocks(world);
    if world.history.site != Site::Journal {
        let table = Table::new(LIMITS, now.times.wall);
        world.forgot_all();
        serve(env, table, Line::to_nowhere());
        return true;
    }
    let mut kept = Kept::default();
    let mut then = now.times.server;
    let mut read_any = false;
    let journal = world.disk.borrow().read_journal();
    if let Some(bytes) = journal {
        let replayed = match replay(&bytes) {
            Ok(replayed) => replayed,
            Err(damage) => {
                world.violate(Violation::Refused { why: format!("{damage:?}") });
                return true;
            }
        };
        read_any = true;
        let last = replayed.last;
        then = match world.plant {
            Plant::DowntimeForgotten => last.server,
            Plant::WallClockTrusted if replayed.header.boot != now.boot => {
                last.server + Duration::from_nanos(now.times.wall.saturating_sub(last.wall))
            }
            _ => downtime::at_least(replayed.header.boot, last, now),
        };
        env.tell("server", || {
            let (held, torn) = (replayed.kept.held(), replayed.torn);
            format!("read {} bytes, {torn} torn; {held} grants, down {:?}", replayed.end, then.since(last.server))
        });
        kept = replayed.kept;
    }
    kept.wake(then, now.times.server, now.times.wall);
    let header = Header { nonce: world.dice(&[6, world.now()]), boot: now.boot };
    world.disk.borrow_mut().forget_marks();
    // The table is made before the new file is begun, and nobody is served before that is done.
    let begun = Writer::begin(env.clone(), header, kept.clone()).await;
    let Ok(writer) = begun else { return false };
    let (grants, places) = contents(&kept, now.times.server);
    let table = if world.plant == Plant::FenceNotPersisted {
        Table::restored(LIMITS, now.times.wall, now.times.server, grants.iter().cloned(), places.iter().cloned())
    } else {
        kept.table(LIMITS, now.times.server)
    };
    if read_any {
        world.read_back(&grants, &places);
    }
    serve(env, table, Line::to_journal(world.plant));
    world.spawn(env.process, writer.run());
    true
}

fn serve(env: &Env, table: Table, line: Line) {
    let mut server = env.world.server.borrow_mut();
    let incarnation = server.incarnation;
    server.running = Some(Running::new(table, line, incarnation));
    drop(server);
    env.tell("server", || format!("serves (life {incarnation})"));
    let done = env.world.operate(&mut |table, turn| table.run_out(turn));
    if let Some(((), effects)) = done {
        env.world.follow_up(effects, None);
    }
}

fn clocks(world: &World) -> Clocks {
    let server = world.server.borrow();
    let times = Times { server: server.clock(world.now()), wall: server.wall + world.now() };
    Clocks { boot: server.boot, times }
}

/// What is kept, told by its own records.
fn contents(kept: &Kept, now: Moment) -> (Vec<OldGrant>, Vec<OldPlace>) {
    let records = kept.to_records();
    let mut rest = records.as_slice();
    let (mut grants, mut places) = (Vec::new(), Vec::new());
    while let Some(record) = record::read(&mut rest) {
        match record {
            Record::Happened(Change::Granted { key, kind, stamp, ticket, lease_s, until, .. }) => {
                grants.push(OldGrant { key, kind, stamp, ticket, lease_s, until });
            }
            Record::Happened(Change::Queued { key, kind, ticket, lease_s, resume }) => {
                places.push(OldPlace { key, kind, ticket, lease_s, away_until: now + resume });
            }
            _ => {}
        }
    }
    (grants, places)
}
