//! Presence: who is in a room and which users are here, where a namespace keeps it.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidegate_core::registry::{Announce, Change, Page, Place, Stay};
use tidegate_core::{ErrorCode, Flags, Namespace, Publication, Room, Rooms, SessionRegistry};
use tidegate_msgpack::write;

use crate::clock::unix_ms;
use crate::reply::{Refusal, Reply};
use crate::session::Deed;

/// Most users in one answer: about half a megabyte. Longer lists are read page by page through the admin API.
const USERS_MAX: usize = 10_000;

/// Stays in one page of the registry.
const PAGE_LIMIT: usize = 1_000;

/// What a room's other members are told when a user comes or leaves: `presence_join` or `presence_leave` with
/// `{ room, user, ts }`.
pub(crate) const ANNOUNCE: Announce = Announce(announcement);

fn announcement(change: &Change<'_>) -> Publication {
    let Stay { namespace, room, user, session, .. } = change.stay;
    let mut data = Vec::with_capacity(64 + room.as_str().len() + user.len());
    write::array(&mut data, 2);
    write::str(&mut data, if change.joined { "presence_join" } else { "presence_leave" });
    write::map(&mut data, 3);
    write::str(&mut data, "room");
    write::str(&mut data, room.as_str());
    write::str(&mut data, "user");
    write::str(&mut data, user);
    write::str(&mut data, "ts");
    write::uint(&mut data, unix_ms());
    Publication {
        namespace: namespace.clone(),
        rooms: Rooms::from_iter([room.clone()]),
        except: Rooms::from_iter([Room::from(session.as_str())]),
        flags: Flags { presence: true, ..Flags::default() },
        data: data.into(),
    }
}

/// What a client asked for.
pub(crate) enum Question {
    /// Who is in the room.
    Room(Room),
    /// Which of these are here.
    Users(Vec<Arc<str>>),
}

/// Answers `{ ok, users: [{ user, devices: [] }] }`, if the session may still begin something by then.
pub(crate) async fn answer(
    registry: Arc<dyn SessionRegistry>,
    namespace: Namespace,
    question: Question,
    begin: impl FnOnce() -> Option<Deed>,
    reply: Reply,
) {
    let found = match question {
        Question::Room(room) => in_room(&*registry, namespace, room).await,
        Question::Users(users) => of_users(&*registry, namespace, users).await,
    };
    // Evicted meanwhile, it is acknowledged nothing any more.
    let Some(_deed) = begin() else { return };
    match found {
        Ok(users) => reply.ok_with(1, |out| {
            write::str(out, "users");
            write::array(out, u32::try_from(users.len()).unwrap_or(u32::MAX));
            for (user, devices) in &users {
                write::map(out, 2);
                write::str(out, "user");
                write::str(out, user);
                write::str(out, "devices");
                write::array(out, u32::try_from(devices.len()).unwrap_or(u32::MAX));
                for device in devices {
                    write::str(out, device);
                }
            }
        }),
        Err(refusal) => reply.refuse(&refusal),
    }
}

type Users = BTreeMap<Arc<str>, Vec<Arc<str>>>;

fn add(users: &mut Users, user: Arc<str>, device: Arc<str>) {
    let devices = users.entry(user).or_default();
    if !devices.contains(&device) {
        devices.push(device);
    }
}

fn unavailable(_: tidegate_core::registry::Error) -> Refusal {
    Refusal::new(ErrorCode::Unavailable, "the session registry cannot be reached")
}

async fn in_room(registry: &dyn SessionRegistry, namespace: Namespace, room: Room) -> Result<Users, Refusal> {
    let (mut users, mut after) = (Users::new(), None);
    loop {
        let page = Page { after, limit: PAGE_LIMIT };
        let listed = registry.members(namespace.clone(), room.clone(), page).await.map_err(unavailable)?;
        for stay in listed.items {
            add(&mut users, stay.user, stay.device);
        }
        if users.len() > USERS_MAX {
            let message =
                format!("the room has more than {USERS_MAX} users; the admin API lists them in pages");
            return Err(Refusal::new(ErrorCode::TooLarge, message));
        }
        after = listed.next;
        if after.is_none() {
            return Ok(users);
        }
    }
}

async fn of_users(
    registry: &dyn SessionRegistry,
    namespace: Namespace,
    users: Vec<Arc<str>>,
) -> Result<Users, Refusal> {
    let places =
        users.into_iter().map(|user| Place { namespace: namespace.clone(), user }).collect::<Vec<_>>();
    let found = registry.find(places.clone()).await.map_err(unavailable)?;
    let mut users = Users::new();
    for (place, rows) in places.into_iter().zip(found) {
        for row in rows {
            add(&mut users, Arc::clone(&place.user), row.device);
        }
    }
    Ok(users)
}
