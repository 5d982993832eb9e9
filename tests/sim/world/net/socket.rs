//! A client's end of a connection.

use super::*;

/// A descriptor of a connection; closes it when dropped.
pub struct Socket {
    world: Rc<World>,
    pub link: usize,
}

impl Socket {
    /// `false`: nobody listens there; for ever nothing: the machine is off.
    pub async fn connect(env: &Env, client: usize) -> Option<Socket> {
        let world = &env.world;
        let link = {
            let mut net = world.net.borrow_mut();
            net.way(client).connections += 1;
            let nth = net.way(client).connections;
            net.links.push(Link {
                client,
                nth,
                process: env.process,
                descriptors: 1,
                inbox: Vec::new(),
                over: false,
                reader: None,
                far: Far::Connecting,
                lost: false,
                up_free_at: 0,
                down_free_at: 0,
                messages: 0,
            });
            net.links.len() - 1
        };
        let socket = Socket { world: world.clone(), link };
        let at = world.arrival(link, true);
        world.at(at, move |world| world.knock(link));
        std::future::poll_fn(|cx| {
            let mut net = world.net.borrow_mut();
            let link = &mut net.links[link];
            match link.far {
                Far::Open { .. } => Poll::Ready(Some(())),
                _ if link.over => Poll::Ready(None),
                _ => {
                    link.reader = Some(cx.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
        .map(|()| socket)
    }

    pub fn say(&self, packet: Packet) {
        self.world.send_up(self.link, packet);
    }

    /// The next answer; `None` at the end of the connection.
    pub async fn hear(&self) -> Option<Said> {
        std::future::poll_fn(|cx| {
            let mut net = self.world.net.borrow_mut();
            let link = &mut net.links[self.link];
            if !link.inbox.is_empty() {
                return Poll::Ready(Some(link.inbox.remove(0).1));
            }
            if link.over {
                return Poll::Ready(None);
            }
            link.reader = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    pub fn duplicate(&self) -> Socket {
        self.world.net.borrow_mut().links[self.link].descriptors += 1;
        Socket { world: self.world.clone(), link: self.link }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.world.close_near(self.link);
    }
}

impl World {
    fn knock(self: &Rc<World>, link: usize) {
        let Link { lost, descriptors, .. } = self.net.borrow().links[link];
        let (powered, incarnation) = {
            let server = self.server.borrow();
            (server.powered, server.running.as_ref().map(|_| server.incarnation))
        };
        if lost || !powered {
            return;
        }
        let Some(incarnation) = incarnation.filter(|_| descriptors > 0) else {
            let at = self.arrival(link, false);
            return self.at(at, move |world| world.end_near(link));
        };
        self.net.borrow_mut().links[link].far = Far::Open { incarnation };
        self.connected(link);
        let reader = self.net.borrow_mut().links[link].reader.take();
        if let Some(reader) = reader {
            reader.wake();
        }
    }
}
