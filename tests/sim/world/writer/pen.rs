//! One file being written: stands for `server::journal::file`.

use super::*;

/// One file being written.
pub(super) struct Pen {
    pub(super) file: usize,
    pub(super) header: Header,
    pub(super) pending: Vec<u8>,
    pub(super) end: u64,
    pub(super) synced: u64,
}

impl Pen {
    pub(super) fn put(&mut self, times: Times, records: &[u8]) {
        let at = self.end + self.pending.len() as u64;
        Frame { synced_to: self.synced, times, records }.write(self.header, at, &mut self.pending);
    }

    pub(super) fn write(&mut self, world: &World) -> Result<(), Failed> {
        world.disk.borrow_mut().append(self.file, &self.pending)?;
        self.end += self.pending.len() as u64;
        self.pending.clear();
        Ok(())
    }

    pub(super) async fn sync(&mut self, env: &Env) -> Result<(), Failed> {
        let pause = sync_time(env);
        env.sleep(pause).await;
        env.world.disk.borrow_mut().sync(self.file, self.end as usize)?;
        self.synced = self.end;
        Ok(())
    }
}

pub(super) fn sync_time(env: &Env) -> Duration {
    let world = &env.world;
    let usual = world.dice(&[5, world.now()]) % (4 * MS) + MS / 20;
    Duration::from_nanos(usual + world.disk.borrow().slow_by)
}
