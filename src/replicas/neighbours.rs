//! Replicas at the engine that are none of this task's, or are not its alone: those of groups that its pool had before, and those
//! of its group that another Pointsman starts. Nothing is done to them; people are told. Pure.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use super::containers::Labelled;

/// What is known of them.
#[derive(Debug)]
pub(super) struct Neighbours {
    /// What this Pointsman marks its own with.
    instance: Arc<str>,
    /// The groups that the pool had before.
    groups: BTreeSet<Arc<str>>,
    /// Those of the pool's group that were there when it was first looked, by id: a Pointsman before this one has started them.
    first: Option<HashSet<Arc<str>>>,
    /// Those of others that were told of, by id.
    told: HashSet<Arc<str>>,
    former: Vec<Arc<str>>,
    rivals: Vec<Arc<str>>,
}

impl Neighbours {
    /// Nobody is known yet to who marks its own with `instance`.
    pub(super) fn new(instance: Arc<str>) -> Self {
        Self {
            instance,
            groups: BTreeSet::new(),
            first: None,
            told: HashSet::new(),
            former: Vec::new(),
            rivals: Vec::new(),
        }
    }

    /// The pool gets another group, or another engine.
    pub(super) fn moved(&mut self, from: &Arc<str>, to: &Arc<str>) {
        self.groups.insert(Arc::clone(from));
        self.groups.remove(to);
        self.first = None;
    }

    /// Takes in who runs; the container of one of the pool's group that another Pointsman has started, if it is new.
    pub(super) fn see(&mut self, list: &[Labelled], group: &str) -> Option<Arc<str>> {
        let of_group = || list.iter().filter(|one| *one.group == *group);
        let first = self.first.get_or_insert_with(|| of_group().map(|one| Arc::clone(&one.id)).collect());
        let others = |one: &&Labelled| one.instance.as_ref().is_some_and(|other| *other != self.instance);
        let rivals: Vec<_> = of_group().filter(others).filter(|one| !first.contains(&one.id)).collect();
        self.rivals = rivals.iter().map(|one| Arc::clone(&one.container)).collect();
        let former = list.iter().filter(|one| self.groups.contains(&one.group));
        self.former = former.map(|one| Arc::clone(&one.container)).collect();
        let told = &mut self.told;
        told.retain(|id| rivals.iter().any(|one| one.id == *id));
        let new: Vec<_> = rivals.iter().filter(|one| told.insert(Arc::clone(&one.id))).collect();
        new.first().map(|one| Arc::clone(&one.container))
    }

    /// Containers of the groups that the pool had before.
    pub(super) fn former(&self) -> &[Arc<str>] {
        &self.former
    }

    /// Containers of the pool's group that another Pointsman has started.
    pub(super) fn rivals(&self) -> &[Arc<str>] {
        &self.rivals
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(id: &str, group: &str, instance: Option<&str>) -> Labelled {
        let container = format!("{group}-{id}").into();
        Labelled { id: id.into(), container, group: group.into(), instance: instance.map(Arc::from) }
    }

    fn shown(names: &[Arc<str>]) -> Vec<&str> {
        names.iter().map(|name| &**name).collect()
    }

    #[test]
    fn another_one_is_at_it_when_it_starts_somebody_after_the_first_look() {
        let mut neighbours = Neighbours::new("me".into());
        let mut list =
            vec![one("a", "web", Some("before")), one("b", "web", None), one("c", "db", Some("x"))];
        assert_eq!(neighbours.see(&list, "web"), None);
        list.extend([one("d", "web", Some("me")), one("e", "db", Some("x")), one("f", "web", None)]);
        assert_eq!(neighbours.see(&list, "web"), None);
        list.extend([one("g", "web", Some("other"))]);
        assert_eq!(neighbours.see(&list, "web").as_deref(), Some("web-g"));
        assert_eq!(neighbours.see(&list, "web"), None, "it is told once");
        assert_eq!(shown(neighbours.rivals()), ["web-g"]);
        list.pop();
        assert_eq!(neighbours.see(&list, "web"), None);
        assert!(neighbours.rivals().is_empty() && neighbours.former().is_empty());
    }

    #[test]
    fn who_is_left_of_a_former_group_is_known_until_it_is_gone_or_the_group_is_back() {
        let mut neighbours = Neighbours::new("me".into());
        let list = [one("a", "web", Some("me")), one("b", "new", Some("me"))];
        neighbours.see(&list, "web");
        neighbours.moved(&"web".into(), &"new".into());
        assert_eq!(neighbours.see(&list, "new"), None);
        assert_eq!(shown(neighbours.former()), ["web-a"]);
        neighbours.moved(&"new".into(), &"web".into());
        neighbours.see(&list, "web");
        assert_eq!(shown(neighbours.former()), ["new-b"]);
        neighbours.see(&list[..1], "web");
        assert!(neighbours.former().is_empty());
    }
}
