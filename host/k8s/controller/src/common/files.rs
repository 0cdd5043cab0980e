//! A `StatefulSet` read through its volume: whether it can be, from which claim, as whom and beside which pod. Pure.
//!
//! A second pod of the node may mount a claim read-only. Files of mode 0600 only their own user reads, so the task runs as the
//! Redis pod's; a group of ours (`fsGroup`) would have kubelet change their owners.

use std::path::PathBuf;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{
    Affinity, PersistentVolumeClaim, PersistentVolumeClaimSpec, Pod, PodAffinityTerm, PodSpec, SELinuxOptions,
    Toleration,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::ResourceExt;
use redkeep_k8s_api::endpoint::{DataFiles, Mode};

use super::Unresolved;
use super::source::host_of;
use crate::executor::{Mount, MountSource, Placement, REDIS_DATA_PATH};

const FIELD: &str = "spec.source.statefulSet.files";
/// On every pod of a `StatefulSet`, by its controller.
const POD_NAME_LABEL: &str = "statefulset.kubernetes.io/pod-name";
const HOST_NAME_LABEL: &str = "kubernetes.io/hostname";
/// Only one pod of the whole cluster mounts such a claim.
const ONE_POD: &str = "ReadWriteOncePod";

/// The pod that a plan chose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// Its name.
    pub pod: String,
    /// Its uid.
    pub uid: String,
    /// Its server's address, as the plan's report says: `redis://10.0.0.1:6379`.
    pub node: String,
}

/// What the task of a chosen pod has to be.
#[derive(Clone, Debug, PartialEq)]
pub struct Pin {
    /// The server.
    pub url: String,
    /// The volume.
    pub mount: Mount,
    /// Its folder with the data.
    pub data_dir: PathBuf,
    user: User,
    near: PodAffinityTerm,
    tolerations: Vec<Toleration>,
}

/// Whether the pod that was chosen is still that pod.
#[derive(Clone, Debug, PartialEq)]
pub enum Pinned {
    /// It is.
    To(Box<Pin>),
    /// It is not, and the choice is to be made again.
    Replaced {
        /// What became of it.
        why: String,
    },
}

/// As whom the files are read.
#[derive(Clone, Debug, PartialEq)]
struct User {
    id: i64,
    group: Option<i64>,
    /// A volume's root belongs to the pod's `fsGroup`, and may be closed to others.
    supplemental_groups: Vec<i64>,
    se_linux_options: Option<SELinuxOptions>,
}

/// Refuses what no pod of the set could give.
///
/// # Errors
/// Several shards, no such volume claim template, a claim for one pod alone, an unknown user.
pub fn check(set: &StatefulSet, files: &DataFiles, mode: Mode) -> Result<(), Unresolved> {
    if mode == Mode::Cluster {
        return Err(Unresolved::invalid(
            FIELD,
            "goes with mode replication: the files of a pod are those of one shard",
        ));
    }
    let name = set.name_any();
    let spec = set.spec.as_ref();
    let mut templates = spec.into_iter().flat_map(|spec| spec.volume_claim_templates.iter().flatten());
    let template = templates.find(|template| template.metadata.name.as_deref() == Some(&files.volume));
    let Some(template) = template else {
        let why = format!("StatefulSet {name} has no volume claim template {}", files.volume);
        return Err(Unresolved::invalid(FIELD, why));
    };
    mountable(template.spec.as_ref(), &format!("the claims {} of StatefulSet {name}", files.volume))?;
    let pod = spec.and_then(|spec| spec.template.spec.as_ref());
    pod.map_or(Ok(()), |pod| user(pod, &files.volume).map(drop))
}

fn mountable(claim: Option<&PersistentVolumeClaimSpec>, what: &str) -> Result<(), Unresolved> {
    let mut modes = claim.into_iter().flat_map(|claim| claim.access_modes.iter().flatten());
    if modes.any(|mode| mode == ONE_POD) {
        let why =
            format!("{what}: access mode {ONE_POD} keeps every other pod away; leave files out to read by replication");
        return Err(Unresolved::invalid(FIELD, why));
    }
    Ok(())
}

/// Who owns the files: the user of the container that has the volume.
fn user(pod: &PodSpec, volume: &str) -> Result<User, Unresolved> {
    let mounts = |container: &&k8s_openapi::api::core::v1::Container| {
        container.volume_mounts.iter().flatten().any(|mount| mount.name == volume && mount.read_only != Some(true))
    };
    let Some(container) = pod.containers.iter().find(mounts) else {
        return Err(Unresolved::invalid(FIELD, format!("no container of the pods writes to volume {volume}")));
    };
    let (own, whole) = (container.security_context.as_ref(), pod.security_context.as_ref());
    let user = own.and_then(|own| own.run_as_user).or_else(|| whole.and_then(|whole| whole.run_as_user));
    let name = &container.name;
    let user = match user {
        None => {
            let why = format!(
                "container {name} does not say as whom it runs, and only that user can read its files: set \
                 securityContext.runAsUser there, or leave files out to read by replication"
            );
            return Err(Unresolved::invalid(FIELD, why));
        }
        Some(0) => {
            let why = format!(
                "container {name} runs as root, which no task does: set another securityContext.runAsUser there, or leave \
                 files out to read by replication"
            );
            return Err(Unresolved::invalid(FIELD, why));
        }
        Some(user) => user,
    };
    let mut groups = whole.and_then(|whole| whole.supplemental_groups.clone()).unwrap_or_default();
    groups.extend(whole.and_then(|whole| whole.fs_group));
    groups.sort_unstable();
    groups.dedup();
    Ok(User {
        id: user,
        group: own.and_then(|own| own.run_as_group).or_else(|| whole.and_then(|whole| whole.run_as_group)),
        supplemental_groups: groups,
        se_linux_options: own
            .and_then(|own| own.se_linux_options.clone())
            .or_else(|| whole.and_then(|whole| whole.se_linux_options.clone())),
    })
}

/// The pod of this owner that has a node's address. On the host's network others have the same.
pub fn choose(pods: &[Pod], owner: &str, node: &str) -> Option<Chosen> {
    let host = host_of(node)?;
    let pod = pods.iter().find(|pod| {
        pod.owner_references().iter().any(|reference| reference.uid == owner)
            && pod.metadata.deletion_timestamp.is_none()
            && address(pod) == Some(host)
    })?;
    Some(Chosen { pod: pod.name_any(), uid: pod.uid()?, node: node.to_owned() })
}

fn address(pod: &Pod) -> Option<&str> {
    pod.status.as_ref()?.pod_ip.as_deref()
}

/// The claim behind a pod's volume.
///
/// # Errors
/// It has none of that name.
pub fn claim_name(pod: &Pod, files: &DataFiles) -> Result<String, Unresolved> {
    let mut volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let claim =
        volumes.find(|volume| volume.name == files.volume).and_then(|volume| volume.persistent_volume_claim.as_ref());
    claim.map(|claim| claim.claim_name.clone()).ok_or_else(|| {
        Unresolved::invalid(FIELD, format!("pod {} has no claim as its volume {}", pod.name_any(), files.volume))
    })
}

impl Pinned {
    /// The pod is not there any more.
    pub fn gone(chosen: &Chosen) -> Self {
        Self::Replaced { why: format!("pod {} is gone", chosen.pod) }
    }
}

/// What the task needs to read this pod's files, if it is still the one that was chosen.
///
/// # Errors
/// The claim is for one pod alone, or its user is not known.
pub fn pin(files: &DataFiles, chosen: &Chosen, pod: &Pod, claim: &PersistentVolumeClaim) -> Result<Pinned, Unresolved> {
    let name = &chosen.pod;
    let replaced = |why: String| Ok(Pinned::Replaced { why });
    if pod.uid().as_deref() != Some(&chosen.uid) {
        return replaced(format!("pod {name} is another one than was chosen"));
    }
    if pod.metadata.deletion_timestamp.is_some() {
        return replaced(format!("pod {name} is being deleted"));
    }
    if address(pod) != host_of(&chosen.node) {
        return replaced(format!("pod {name} has another address than was chosen"));
    }
    let Some(spec) = &pod.spec else { return replaced(format!("pod {name} has no spec")) };
    let claim_name = claim.name_any();
    mountable(claim.spec.as_ref(), &format!("claim {claim_name}"))?;
    let source = MountSource::Claim { name: claim_name, read_only: true };
    let labels = [(POD_NAME_LABEL.to_owned(), name.clone())];
    Ok(Pinned::To(Box::new(Pin {
        url: chosen.node.clone(),
        mount: Mount { source, path: REDIS_DATA_PATH.into() },
        data_dir: data_dir(files),
        user: user(spec, &files.volume)?,
        near: PodAffinityTerm {
            label_selector: Some(LabelSelector { match_labels: Some(labels.into()), match_expressions: None }),
            topology_key: HOST_NAME_LABEL.to_owned(),
            ..PodAffinityTerm::default()
        },
        tolerations: spec.tolerations.clone().unwrap_or_default(),
    })))
}

/// Whatever its path in the Redis pod: the method proves by the server's own word that these are its files.
fn data_dir(files: &DataFiles) -> PathBuf {
    let parts = files.path.split('/').filter(|part| !part.is_empty());
    parts.fold(PathBuf::from(REDIS_DATA_PATH), |folder, part| folder.join(part))
}

impl Pin {
    /// Beside the pod, and as its user; what the spec asks for holds as well.
    pub fn place(&self, placement: &mut Placement) {
        let affinity: &mut Affinity = placement.affinity.get_or_insert_default();
        let required =
            &mut affinity.pod_affinity.get_or_insert_default().required_during_scheduling_ignored_during_execution;
        required.get_or_insert_default().push(self.near.clone());
        // Where its node is kept for the likes of it.
        for toleration in &self.tolerations {
            if !placement.tolerations.contains(toleration) {
                placement.tolerations.push(toleration.clone());
            }
        }
        placement.run_as_user = Some(self.user.id);
        placement.run_as_group = self.user.group;
        placement.supplemental_groups.clone_from(&self.user.supplemental_groups);
        placement.se_linux_options.clone_from(&self.user.se_linux_options);
    }
}

#[cfg(test)]
mod tests;
