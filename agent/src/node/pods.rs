//! What the rest of the program may ask about the Pods of this node: [`Pods`], filled by the workers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};

use oci_spec::runtime::{Process, Spec};

use crate::sandbox::dirs::PodDirs;

/// One container as the outside sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerView {
    pub name: String,
    pub id: String,
    pub running: bool,
    /// The number of the present (or latest) run.
    pub restart_count: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodView {
    pub uid: String,
    pub dirs: PodDirs,
    /// The Pod's network namespace; None in the host's network or without a sandbox.
    pub netns: Option<PathBuf>,
    /// The Pod is in the host's network.
    pub host_network: bool,
    pub address: Option<String>,
    /// Main containers first, in the spec's order.
    pub containers: Vec<ContainerView>,
    /// Names and ids of the images that it runs from, or will.
    pub images: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    #[error("pod \"{namespace}/{pod}\" is not on this node")]
    NoPod { namespace: String, pod: String },
    #[error("container \"{container}\" is not in pod \"{pod}\"")]
    NoContainer { pod: String, container: String },
    #[error("a container name must be specified for pod \"{pod}\", choose one of: [{}]", choices.join(" "))]
    Ambiguous { pod: String, choices: Vec<String> },
}

/// All that logs, exec and port-forward need.
#[derive(Debug, Clone)]
pub struct ContainerTarget {
    pub pod_uid: String,
    pub supervisor_socket: PathBuf,
    pub container: String,
    pub id: String,
    pub running: bool,
    /// `<log_dir>/<restart_count>.log` is the present run's log.
    pub restart_count: u32,
    pub log_dir: PathBuf,
    /// The log of the run before is still there.
    pub has_previous: bool,
    pub netns: Option<PathBuf>,
    pub address: Option<String>,
    /// The template for exec; None if the container never was made.
    pub process: Option<Process>,
}

type Views = BTreeMap<(String, String), PodView>;

/// A handle on what runs here; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Pods {
    views: Arc<RwLock<Views>>,
}

impl Pods {
    pub fn pod(&self, namespace: &str, pod: &str) -> Option<PodView> {
        self.read().get(&(namespace.to_owned(), pod.to_owned())).cloned()
    }

    pub fn list(&self) -> Vec<(String, String, PodView)> {
        self.read()
            .iter()
            .map(|((namespace, name), view)| (namespace.clone(), name.clone(), view.clone()))
            .collect()
    }

    /// Without a container's name: the only one.
    pub fn container(
        &self,
        namespace: &str,
        pod: &str,
        container: Option<&str>,
    ) -> Result<ContainerTarget, TargetError> {
        let view = self
            .pod(namespace, pod)
            .ok_or_else(|| TargetError::NoPod { namespace: namespace.into(), pod: pod.into() })?;
        let found = choose(&view, pod, container)?.clone();
        Ok(target(view, found))
    }

    pub(crate) fn publish(&self, namespace: &str, pod: &str, view: PodView) {
        self.write().insert((namespace.to_owned(), pod.to_owned()), view);
    }

    /// Unless a new Pod of the same name has taken the place.
    pub(crate) fn withdraw(&self, namespace: &str, pod: &str, uid: &str) {
        let key = (namespace.to_owned(), pod.to_owned());
        let mut views = self.write();
        if views.get(&key).is_some_and(|view| view.uid == uid) {
            views.remove(&key);
        }
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Views> {
        self.views.read().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Views> {
        self.views.write().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

fn choose<'a>(
    view: &'a PodView,
    pod: &str,
    container: Option<&str>,
) -> Result<&'a ContainerView, TargetError> {
    match (container.filter(|name| !name.is_empty()), view.containers.as_slice()) {
        (Some(name), all) => all
            .iter()
            .find(|each| each.name == name)
            .ok_or_else(|| TargetError::NoContainer { pod: pod.into(), container: name.into() }),
        (None, [only]) => Ok(only),
        (None, all) => {
            let choices = all.iter().map(|each| each.name.clone()).collect();
            Err(TargetError::Ambiguous { pod: pod.into(), choices })
        }
    }
}

fn target(view: PodView, container: ContainerView) -> ContainerTarget {
    let attempt = container.restart_count;
    let previous = attempt.checked_sub(1).map(|before| view.dirs.log(&container.name, before));
    ContainerTarget {
        supervisor_socket: view.dirs.socket(),
        log_dir: view.dirs.container_logs(&container.name),
        has_previous: previous.is_some_and(|path| path.exists()),
        process: process_template(&view.dirs, &container.name, attempt),
        pod_uid: view.uid,
        container: container.name,
        id: container.id,
        running: container.running,
        restart_count: attempt,
        netns: view.netns,
        address: view.address,
    }
}

/// The process of a container's run, as its config.json has it.
pub(crate) fn process_template(dirs: &PodDirs, container: &str, attempt: u32) -> Option<Process> {
    let path = config_path(&dirs.bundle(container, attempt));
    let spec: Spec = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
    spec.process().clone()
}

pub(crate) fn config_path(bundle: &Path) -> PathBuf {
    bundle.join("config.json")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::dirs::Roots;

    fn view(uid: &str, names: &[&str]) -> PodView {
        let roots = Roots { data: "/d".into(), run: "/r".into(), logs: "/l".into() };
        let container = |name: &&str| ContainerView {
            name: (*name).into(),
            id: "i".into(),
            running: true,
            restart_count: 2,
        };
        PodView {
            uid: uid.into(),
            dirs: PodDirs::new(&roots, "ns", "p", uid).unwrap(),
            netns: None,
            host_network: false,
            address: None,
            containers: names.iter().map(container).collect(),
            images: Vec::new(),
        }
    }

    #[test]
    fn containers_are_found_by_name_or_alone() {
        let pods = Pods::default();
        pods.publish("ns", "p", view("u", &["a", "b"]));
        assert!(matches!(pods.container("ns", "q", None), Err(TargetError::NoPod { .. })));
        assert!(matches!(pods.container("ns", "p", None), Err(TargetError::Ambiguous { .. })));
        assert!(matches!(
            pods.container("ns", "p", Some("c")),
            Err(TargetError::NoContainer { .. })
        ));
        let target = pods.container("ns", "p", Some("b")).unwrap();
        assert_eq!(target.log_dir, Path::new("/l/ns_p_u/b"));
        assert_eq!((target.restart_count, target.has_previous), (2, false));
        pods.publish("ns", "p", view("v", &["a"]));
        assert_eq!(pods.container("ns", "p", None).unwrap().container, "a");
        pods.withdraw("ns", "p", "u");
        assert!(pods.pod("ns", "p").is_some(), "it belongs to the new pod");
        pods.withdraw("ns", "p", "v");
        assert!(pods.pod("ns", "p").is_none());
    }
}
