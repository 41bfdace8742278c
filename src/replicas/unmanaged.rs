//! Containers at the engine that this pool does not manage alone: those of its former groups, and those of its group
//! that another Pointsman has started. They are reported and left alone. Pure.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use super::container_runtime::LabelledContainer;

/// The containers that the pool does not manage alone.
#[derive(Debug)]
pub(super) struct UnmanagedContainers {
    /// The label of the containers that this Pointsman starts.
    instance: Arc<str>,
    former_groups: BTreeSet<Arc<str>>,
    /// The ids of the group's containers in the first list: an earlier Pointsman may have started them.
    first: Option<HashSet<Arc<str>>>,
    /// The ids of other Pointsmans' containers that were reported.
    reported: HashSet<Arc<str>>,
    former: Vec<Arc<str>>,
    rivals: Vec<Arc<str>>,
}

impl UnmanagedContainers {
    /// `instance` is the label of the containers that this Pointsman starts.
    pub(super) fn new(instance: Arc<str>) -> Self {
        Self {
            instance,
            former_groups: BTreeSet::new(),
            first: None,
            reported: HashSet::new(),
            former: Vec::new(),
            rivals: Vec::new(),
        }
    }

    /// The pool gets another group or another engine.
    pub(super) fn on_move(&mut self, from: &Arc<str>, to: &Arc<str>) {
        self.former_groups.insert(Arc::clone(from));
        self.former_groups.remove(to);
        self.first = None;
    }

    /// Takes in the running containers; a new one of the group that another Pointsman has started, if any.
    pub(super) fn on_list(&mut self, list: &[LabelledContainer], group: &str) -> Option<Arc<str>> {
        let of_group = || list.iter().filter(|one| *one.group == *group);
        let first = self.first.get_or_insert_with(|| of_group().map(|one| Arc::clone(&one.id)).collect());
        let is_rival = |one: &&LabelledContainer| {
            one.instance.as_ref().is_some_and(|other| *other != self.instance) && !first.contains(&one.id)
        };
        let rivals: Vec<_> = of_group().filter(is_rival).collect();
        self.rivals = rivals.iter().map(|one| Arc::clone(&one.container)).collect();
        let former = list.iter().filter(|one| self.former_groups.contains(&one.group));
        self.former = former.map(|one| Arc::clone(&one.container)).collect();
        let reported = &mut self.reported;
        reported.retain(|id| rivals.iter().any(|one| one.id == *id));
        let new: Vec<_> = rivals.iter().filter(|one| reported.insert(Arc::clone(&one.id))).collect();
        new.first().map(|one| Arc::clone(&one.container))
    }

    /// The names of containers of former groups.
    pub(super) fn former(&self) -> &[Arc<str>] {
        &self.former
    }

    /// The names of the group's containers that another Pointsman has started.
    pub(super) fn rivals(&self) -> &[Arc<str>] {
        &self.rivals
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(id: &str, group: &str, instance: Option<&str>) -> LabelledContainer {
        let container = format!("{group}-{id}").into();
        LabelledContainer { id: id.into(), container, group: group.into(), instance: instance.map(Arc::from) }
    }

    fn shown(names: &[Arc<str>]) -> Vec<&str> {
        names.iter().map(|name| &**name).collect()
    }

    #[test]
    fn a_container_started_by_another_pointsman_after_the_first_list_is_reported_once() {
        let mut containers = UnmanagedContainers::new("me".into());
        let mut list =
            vec![one("a", "web", Some("before")), one("b", "web", None), one("c", "db", Some("x"))];
        assert_eq!(containers.on_list(&list, "web"), None);
        list.extend([one("d", "web", Some("me")), one("e", "db", Some("x")), one("f", "web", None)]);
        assert_eq!(containers.on_list(&list, "web"), None);
        list.extend([one("g", "web", Some("other"))]);
        assert_eq!(containers.on_list(&list, "web").as_deref(), Some("web-g"));
        assert_eq!(containers.on_list(&list, "web"), None, "reported once");
        assert_eq!(shown(containers.rivals()), ["web-g"]);
        list.pop();
        assert_eq!(containers.on_list(&list, "web"), None);
        assert!(containers.rivals().is_empty() && containers.former().is_empty());
    }

    #[test]
    fn containers_of_a_former_group_are_listed_until_they_end_or_the_group_is_back() {
        let mut containers = UnmanagedContainers::new("me".into());
        let list = [one("a", "web", Some("me")), one("b", "new", Some("me"))];
        containers.on_list(&list, "web");
        containers.on_move(&"web".into(), &"new".into());
        assert_eq!(containers.on_list(&list, "new"), None);
        assert_eq!(shown(containers.former()), ["web-a"]);
        containers.on_move(&"new".into(), &"web".into());
        containers.on_list(&list, "web");
        assert_eq!(shown(containers.former()), ["new-b"]);
        containers.on_list(&list[..1], "web");
        assert!(containers.former().is_empty());
    }
}
