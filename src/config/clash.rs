//! Routes of several files that have the same name: which file gives way. At a reload no route that was in use goes with it. Logs nothing.

use super::error::{ConfigError, Place};
use super::include::{Choice, Included, RouteFile};
use super::{Route, route};
use std::collections::HashMap;
use std::sync::Arc;

/// The configuration file's own routes, which cannot be left out.
pub(super) struct Own<'a> {
    pub(super) routes: &'a [Arc<Route>],
    pub(super) place: &'a dyn Fn(usize) -> Place,
}

/// A name belongs to the file that had it before and still has it, else to the one in front. A file that gives way is in use as it was before,
/// so that what it had then is its own again, and others may have to give way for it.
pub(super) fn settle(own: &Own<'_>, mut choices: Vec<Choice>) -> Result<Included, ConfigError> {
    while let Some(losers) = losers(own, &choices)? {
        for (at, error) in losers {
            if let Some(choice) = choices.get_mut(at) {
                choice.read = Err(error);
            }
        }
    }
    let mut included = Included::default();
    for choice in choices {
        match choice.read {
            Ok(file) => included.files.push(file),
            Err(error) => {
                included.broken.push(error);
                included.files.extend(choice.before);
            }
        }
    }
    Ok(included)
}

/// The files that give way to what is in use with them now; `None` if each name stands once.
fn losers(own: &Own<'_>, choices: &[Choice]) -> Result<Option<HashMap<usize, ConfigError>>, ConfigError> {
    let mut holders: HashMap<&str, (Option<usize>, usize)> =
        own.routes.iter().enumerate().map(|(index, route)| (route.name.as_str(), (None, index))).collect();
    let mut losers = HashMap::new();
    for (at, choice) in choices.iter().enumerate() {
        let Some(file) = choice.in_use() else { continue };
        for (index, route) in file.routes.iter().enumerate() {
            let name = route.name.as_str();
            let Some((holder, holders_index)) = holders.insert(name, (Some(at), index)) else { continue };
            if holder.is_some_and(|holder| losers.contains_key(&holder)) {
                continue;
            }
            let had_it = || choice.before.iter().flat_map(|file| &file.routes).any(|route| route.name == name);
            if choice.read.is_ok() && !had_it() {
                losers.insert(at, route::name_taken(&file.place(index, "name"), name));
                holders.insert(name, (holder, holders_index));
                break;
            }
            // What is in use as it was before has no name twice, so the one in front is new.
            let Some(holder) = holder else { return Err(kept_by(&(own.place)(holders_index), name, file)) };
            if let Some(front) = choices.get(holder).and_then(|front| front.read.as_ref().ok()) {
                losers.insert(holder, kept_by(&front.place(holders_index, "name"), name, file));
            }
        }
    }
    Ok((!losers.is_empty()).then_some(losers))
}

fn kept_by(place: &Place, name: &str, keeper: &RouteFile) -> ConfigError {
    place.invalid(format!("{name:?} is a route of {} already, and stays it", keeper.path.display()), "give each route a name of its own")
}
