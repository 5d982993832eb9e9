//! One connection at the server: stands for `server::session`. Requests in, answers out when they may leave.

use super::*;

impl World {
    /// The system takes the connection, whatever its server does.
    pub fn connected(self: &Rc<World>, link: usize) {
        let incarnation = self.server.borrow().incarnation;
        self.when_it_goes_on(Some(link), move |world| world.accept(link, incarnation));
    }

    fn accept(self: &Rc<World>, link: usize, incarnation: u64) {
        if self.server.borrow().incarnation != incarnation {
            return;
        }
        let now = self.now();
        let mut server = self.server.borrow_mut();
        if let Some(running) = &mut server.running {
            let conn = running.table.connect();
            running.links.insert(conn, link);
            let (ahead, out) = (VecDeque::new(), VecDeque::new());
            running.sessions.insert(link, Session { conn, blocked: false, ahead, out, heard_at: now, resumes: false });
        }
        drop(server);
        self.watch_idle(link);
    }

    /// As the original does.
    fn watch_idle(self: &Rc<World>, link: usize) {
        if self.history.site != Site::Original {
            return;
        }
        let incarnation = self.server.borrow().incarnation;
        self.after(IDLE_CUT, move |world| {
            let server = world.server.borrow();
            let session = server.running.as_ref().and_then(|running| running.sessions.get(&link));
            let Some(Session { blocked, heard_at, .. }) = session.filter(|_| server.incarnation == incarnation) else {
                return;
            };
            let frozen = server.frozen.is_some();
            let idle = !*blocked && !frozen && world.now() - heard_at >= IDLE_CUT;
            drop(server);
            if idle {
                world.disconnected(link, incarnation);
                world.close_far(link);
            } else {
                world.watch_idle(link);
            }
        });
    }

    pub fn disconnected(self: &Rc<World>, link: usize, incarnation: u64) {
        self.when_it_goes_on(Some(link), move |world| world.clear_away(link, incarnation));
    }

    fn clear_away(self: &Rc<World>, link: usize, incarnation: u64) {
        let (conn, resumes) = {
            let mut server = self.server.borrow_mut();
            if server.incarnation != incarnation {
                return;
            }
            let Some(running) = &mut server.running else { return };
            let Some(session) = running.sessions.remove(&link) else { return };
            (session.conn, session.resumes)
        };
        self.tell("server", || format!("connection {link} of client {} is over", self.client_of(link)));
        let absent = self.owner_left(link, resumes);
        if self.plant == Plant::GrantToAbsent && absent {
            return;
        }
        self.check.borrow_mut().breaks = !resumes;
        while let Some((done, effects)) = self.operate(&mut |table, turn| table.disconnect(turn, conn)) {
            self.follow_up(effects, None);
            if done {
                break;
            }
        }
        self.check.borrow_mut().breaks = false;
        if let Some(running) = &mut self.server.borrow_mut().running {
            running.links.remove(&conn);
        }
    }

    pub fn receive(self: &Rc<World>, link: usize, incarnation: u64, packet: Packet) {
        self.when_it_goes_on(Some(link), move |world| world.read(link, incarnation, packet));
    }

    fn read(self: &Rc<World>, link: usize, incarnation: u64, packet: Packet) {
        let now = self.now();
        {
            let mut server = self.server.borrow_mut();
            if server.incarnation != incarnation {
                return;
            }
            let Some(session) = server.running.as_mut().and_then(|running| running.sessions.get_mut(&link)) else {
                return;
            };
            session.heard_at = now;
            if session.blocked {
                return session.ahead.push_back(packet);
            }
        }
        self.handle(link, packet);
    }

    /// A connection is not blocked any more.
    pub(super) fn go_on_with(self: &Rc<World>, link: usize) {
        loop {
            let next = {
                let mut server = self.server.borrow_mut();
                let session = server.running.as_mut().and_then(|running| running.sessions.get_mut(&link));
                session.filter(|session| !session.blocked).and_then(|session| session.ahead.pop_front())
            };
            match next {
                Some(packet) => self.handle(link, packet),
                None => return,
            }
        }
    }

    fn handle(self: &Rc<World>, link: usize, packet: Packet) {
        let conn = {
            let server = self.server.borrow();
            let Some(session) = server.running.as_ref().and_then(|running| running.sessions.get(&link)) else { return };
            session.conn
        };
        self.tell("server", || format!("client {} on {link}: {packet:?}", self.client_of(link)));
        match packet {
            Packet::Info { resume_s } => self.say_info(link, conn, resume_s),
            Packet::Acquire { key, kind, timeout_s, lease_s } => {
                let patience = Duration::from_secs(timeout_s);
                let done =
                    self.operate(&mut |table, turn| table.acquire(turn, conn, &name(key), kind, lease_s, patience));
                self.reply(link, done, (key, kind.space()), |stamp| Said::Granted { stamp });
            }
            Packet::Enqueue { key, kind, lease_s } => {
                let done = self.operate(&mut |table, turn| table.enqueue(turn, conn, &name(key), kind, lease_s));
                self.reply(link, done, (key, kind.space()), |stamp| Said::Acquired { stamp });
            }
            Packet::Wait { key, space, timeout_s } => {
                let patience = Duration::from_secs(timeout_s);
                let done = self.operate(&mut |table, turn| table.wait(turn, conn, &name(key), space, patience));
                let Some((reply, effects)) = done else { return };
                self.block_if(link, reply);
                self.follow_up(effects, None);
                if matches!(reply, Reply::Timeout) {
                    self.left_queue(link, (key, space));
                }
                self.answer_reply(link, reply, |stamp| Said::Granted { stamp });
            }
            Packet::Release { key, space, token } => {
                let text = token.hex();
                let text = text.as_str().as_bytes();
                let done = self.operate(&mut |table, turn| table.release(turn, &name(key), space, text));
                let Some((released, effects)) = done else { return };
                self.follow_up(effects, None);
                let promise = Promise::Released { fence: token.number };
                if released {
                    self.answer(link, Said::Done, promise);
                } else {
                    self.answer(link, Said::Error, Promise::Nothing);
                }
            }
            Packet::Renew { key, space, token, lease_s } => {
                let text = token.hex();
                let text = text.as_str().as_bytes();
                let done =
                    self.operate(&mut |table, turn| table.renew(turn, conn, &name(key), space, text, Some(lease_s)));
                let Some((renewed, effects)) = done else { return };
                self.follow_up(effects, None);
                self.answer_about(link, token, renewed.is_some());
            }
            Packet::Resume { key, space, proof, lease_s } if self.history.site != Site::Original => {
                let text = proof.hex();
                let text = text.as_str().as_bytes();
                let done = self.operate(&mut |table, turn| table.resume(turn, conn, &name(key), space, text, lease_s));
                let Some((resumed, effects)) = done else { return };
                self.owner_returned(link, proof, resumed.ok());
                self.follow_up(effects, None);
                match resumed {
                    Err(_) => self.answer_about(link, proof, false),
                    Ok(Resumed::Held { .. }) => self.answer_about(link, proof, true),
                    Ok(Resumed::Queued { ticket }) => {
                        self.answer(
                            link,
                            Said::Queued { ticket: Some(ticket) },
                            Promise::Place { ticket: ticket.number },
                        );
                    }
                    Ok(Resumed::Granted { stamp, .. }) => {
                        self.answer(link, Said::Acquired { stamp }, self.lease_of(stamp));
                    }
                }
            }
            Packet::Resume { .. } => self.answer(link, Said::Error, Promise::Nothing),
        }
    }

    fn say_info(self: &Rc<World>, link: usize, conn: ConnId, resume_s: Option<u64>) {
        if self.history.site == Site::Original {
            return self.answer(link, Said::Error, Promise::Nothing);
        }
        let agreed = resume_s.map_or(MAX_RESUME_S, |wish| wish.min(MAX_RESUME_S));
        if resume_s.is_some()
            && let Some(running) = &mut self.server.borrow_mut().running
        {
            running.table.allow_resuming(conn, Duration::from_secs(agreed));
            if let Some(session) = running.sessions.get_mut(&link) {
                session.resumes = agreed > 0;
            }
        }
        self.answer(link, Said::About { resume_s: agreed }, Promise::Nothing);
    }

    /// To `l` and `e`.
    fn reply(
        self: &Rc<World>,
        link: usize,
        done: Option<(Reply, Effects)>,
        lock: (u8, dflock::lock::Space),
        granted: fn(Stamp) -> Said,
    ) {
        let Some((reply, effects)) = done else { return };
        self.block_if(link, reply);
        let own = if let Reply::Granted { stamp, .. } = reply { Some(stamp.number) } else { None };
        self.follow_up(effects, own);
        match reply {
            Reply::Blocked => self.joined_queue(link, lock, None),
            Reply::Queued { ticket } => self.joined_queue(link, lock, ticket.map(|ticket| ticket.number)),
            _ => {}
        }
        self.answer_reply(link, reply, granted);
    }

    fn block_if(&self, link: usize, reply: Reply) {
        let mut server = self.server.borrow_mut();
        if let Some(session) = server.running.as_mut().and_then(|running| running.sessions.get_mut(&link)) {
            session.blocked |= matches!(reply, Reply::Blocked);
        }
    }

    fn answer_reply(self: &Rc<World>, link: usize, reply: Reply, granted: fn(Stamp) -> Said) {
        let (said, promise) = match reply {
            Reply::Granted { stamp, .. } => (granted(stamp), self.lease_of(stamp)),
            Reply::Queued { ticket } => {
                let promise = ticket.map_or(Promise::Nothing, |ticket| Promise::Place { ticket: ticket.number });
                (Said::Queued { ticket }, promise)
            }
            Reply::Blocked => return,
            Reply::Timeout => (Said::Timeout, Promise::Nothing),
            Reply::No(No::Paused) => (Said::Error, Promise::Nothing),
            Reply::No(_) => (Said::Refused, Promise::Nothing),
        };
        self.answer(link, said, promise);
    }

    fn answer_about(self: &Rc<World>, link: usize, token: Stamp, held: bool) {
        if held {
            return self.answer(link, Said::Left, self.lease_of(token));
        }
        self.denied(token.number);
        self.answer(link, Said::Error, Promise::Nothing);
    }

    /// Leaves when everything that happened so far is on disk.
    pub(super) fn answer(self: &Rc<World>, link: usize, said: Said, promise: Promise) {
        let mut server = self.server.borrow_mut();
        let Some(running) = &mut server.running else { return };
        let mark = running.line.mark();
        if let Some(session) = running.sessions.get_mut(&link) {
            session.out.push_back((mark, said, promise));
        }
        drop(server);
        self.send_what_may_leave(Some(link));
    }

    /// To one connection, or to all.
    pub fn send_what_may_leave(self: &Rc<World>, link: Option<usize>) {
        let mut leaving = Vec::new();
        {
            let mut server = self.server.borrow_mut();
            let Some(Running { sessions, line, .. }) = &mut server.running else { return };
            let kept = line.kept();
            let of_link = |(at, session): (&usize, &mut Session)| {
                while session.out.front().is_some_and(|(mark, ..)| *mark <= kept) {
                    leaving.extend(session.out.pop_front().map(|(mark, said, promise)| (*at, mark, said, promise)));
                }
            };
            match link {
                Some(link) => sessions.get_mut(&link).map(|session| (&link, session)).into_iter().for_each(of_link),
                None => sessions.iter_mut().for_each(of_link),
            }
        }
        for (link, mark, said, promise) in leaving {
            self.tell("server", || format!("to client {} on {link}: {said:?}", self.client_of(link)));
            self.promised(mark, promise);
            self.send_down(link, said);
        }
    }
}
