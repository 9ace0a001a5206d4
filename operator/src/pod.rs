//! The pod that all of our programs run in: restricted, without a token, nothing writable but a folder of its own. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Capabilities, ConfigMapVolumeSource, Container, EmptyDirVolumeSource, EnvVar, KeyToPath, LocalObjectReference,
    PodSecurityContext, PodSpec, ResourceRequirements, SeccompProfile, SecretVolumeSource, SecurityContext, Volume,
    VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use leasehold_crds::{ConnectionParameters, Image, PullPolicy, S3};

/// The user and group that everything runs as.
const USER: i64 = 65532;
const DATA: &str = "/var/lib/leasehold";
const CONFIG: &str = "/etc/leasehold";
const S3_SECRET: &str = "/run/secrets/leasehold/s3";
const S3_CA: &str = "/run/secrets/leasehold/s3-ca";
const DATABASE: &str = "/run/secrets/leasehold/database";
const DATABASE_CA: &str = "/run/secrets/leasehold/database-ca";
const CA_NAME: &str = "ca.crt";

/// Where the configuration is.
pub const CONFIG_FILE: &str = "/etc/leasehold/leasehold.toml";
/// The key of the configuration in its ConfigMap.
pub const CONFIG_KEY: &str = "leasehold.toml";
/// Where the access key's id is.
pub const S3_KEY_FILE: &str = "/run/secrets/leasehold/s3/accessKeyID";
/// Where the secret access key is.
pub const S3_SECRET_FILE: &str = "/run/secrets/leasehold/s3/secretAccessKey";
/// Where the authorities for the store are.
pub const S3_CA_FILE: &str = "/run/secrets/leasehold/s3-ca/ca.crt";
/// Where the database's password is.
pub const DATABASE_PASSWORD_FILE: &str = "/run/secrets/leasehold/database/password";
/// Where the authorities for the database are.
pub const DATABASE_CA_FILE: &str = "/run/secrets/leasehold/database-ca/ca.crt";

/// Volumes with where they are mounted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Mounts(Vec<(Volume, VolumeMount)>);

impl Mounts {
    /// The configuration, in a ConfigMap of this name.
    pub fn config(mut self, config_map: &str) -> Self {
        let source = ConfigMapVolumeSource { name: config_map.to_owned(), ..ConfigMapVolumeSource::default() };
        self.add(Volume { config_map: Some(source), ..volume("config") }, CONFIG, true);
        self
    }

    /// A folder of the pod's own, for what need not outlive it.
    pub fn data(mut self) -> Self {
        let source = EmptyDirVolumeSource::default();
        self.add(Volume { empty_dir: Some(source), ..volume("data") }, DATA, false);
        self
    }

    /// The identity, in a Secret of this name. It lies within the data folder.
    pub fn identity(mut self, secret: &str) -> Self {
        self.add(secret_volume("identity", secret, None), "/var/lib/leasehold/identity", true);
        self
    }

    /// What the store needs.
    pub fn s3(mut self, s3: &S3) -> Self {
        if let Some(secret) = &s3.credentials.secret_ref {
            self.add(secret_volume("s3", &secret.name, None), S3_SECRET, true);
        }
        if let Some(tls) = &s3.tls {
            let source = ConfigMapVolumeSource {
                name: tls.ca_bundle_ref.name.clone(),
                items: Some(vec![as_authority(&tls.ca_bundle_ref.key)]),
                ..ConfigMapVolumeSource::default()
            };
            self.add(Volume { config_map: Some(source), ..volume("s3-ca") }, S3_CA, true);
        }
        self
    }

    /// What the database needs, for the role whose Secret this is.
    pub fn database(mut self, parameters: &ConnectionParameters, role_secret: &str) -> Self {
        self.add(secret_volume("database", role_secret, None), DATABASE, true);
        if let Some(ca) = &parameters.tls.ca_secret_ref {
            self.add(secret_volume("database-ca", &ca.name, Some(as_authority(&ca.key))), DATABASE_CA, true);
        }
        self
    }

    fn add(&mut self, volume: Volume, path: &str, read_only: bool) {
        let mount = VolumeMount {
            name: volume.name.clone(),
            mount_path: path.to_owned(),
            read_only: Some(read_only),
            ..VolumeMount::default()
        };
        self.0.push((volume, mount));
    }
}

fn volume(name: &str) -> Volume {
    Volume { name: name.to_owned(), ..Volume::default() }
}

fn secret_volume(name: &str, secret: &str, item: Option<KeyToPath>) -> Volume {
    let source = SecretVolumeSource {
        secret_name: Some(secret.to_owned()),
        items: item.map(|item| vec![item]),
        default_mode: Some(0o440),
        optional: None,
    };
    Volume { secret: Some(source), ..volume(name) }
}

fn as_authority(key: &str) -> KeyToPath {
    KeyToPath { key: key.to_owned(), path: CA_NAME.to_owned(), mode: None }
}

/// A program to run.
#[derive(Clone, Debug, PartialEq)]
pub struct Program<'a> {
    /// The image.
    pub image: String,
    /// Where it comes from.
    pub source: &'a Image,
    /// The command's arguments.
    pub arguments: Vec<String>,
    /// What it can read and write.
    pub mounts: Mounts,
    /// What it may use of a node.
    pub resources: ResourceRequirements,
}

/// The image of a server or job: the operator's pair, with whatever the spec sets in its place.
pub fn image(pair: &str, spec: &Image) -> String {
    let (pair_name, pair_digest) = pair.split_once('@').map_or((pair, None), |(name, digest)| (name, Some(digest)));
    // A colon behind the last slash begins a tag; one before it, a port.
    let (pair_repository, pair_tag) = match pair_name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, Some(tag)),
        _ => (pair_name, None),
    };
    let repository = if spec.repository.is_empty() { pair_repository } else { &spec.repository };
    if !spec.digest.is_empty() {
        return format!("{repository}@{}", spec.digest);
    }
    if !spec.tag.is_empty() {
        return format!("{repository}:{}", spec.tag);
    }
    match (pair_digest, pair_tag) {
        // Another repository need not hold the very same bytes under its own digest, but it does under the same digest.
        (Some(digest), _) => format!("{repository}@{digest}"),
        (None, Some(tag)) => format!("{repository}:{tag}"),
        (None, None) => repository.to_owned(),
    }
}

/// What jobs may use of a node.
pub fn job_resources() -> ResourceRequirements {
    let amounts = |pairs: &[(&str, &str)]| {
        let pairs = pairs.iter().map(|(name, amount)| ((*name).to_owned(), Quantity((*amount).to_owned())));
        Some(pairs.collect::<BTreeMap<_, _>>())
    };
    ResourceRequirements {
        requests: amounts(&[("cpu", "50m"), ("memory", "128Mi")]),
        limits: amounts(&[("memory", "512Mi")]),
        claims: None,
    }
}

/// A pod that runs the program once, without a ServiceAccount's token.
pub fn spec(program: Program<'_>) -> PodSpec {
    let (volumes, mounts): (Vec<_>, Vec<_>) = program.mounts.0.into_iter().unzip();
    let container = Container {
        name: "leasehold".to_owned(),
        image: Some(program.image),
        image_pull_policy: Some(program.source.pull_policy.as_str().to_owned()),
        args: Some(program.arguments),
        env: Some(vec![env("LEASEHOLD_DATA_DIR", DATA), env("LEASEHOLD_CONFIG", CONFIG_FILE)]),
        resources: Some(program.resources),
        volume_mounts: Some(mounts),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), add: None }),
            ..SecurityContext::default()
        }),
        // What a program says last tells people why it failed.
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        ..Container::default()
    };
    let pull_secrets =
        program.source.pull_secrets.iter().map(|secret| LocalObjectReference { name: secret.name.clone() });
    let pull_secrets: Vec<_> = pull_secrets.collect();
    PodSpec {
        containers: vec![container],
        volumes: Some(volumes),
        image_pull_secrets: (!pull_secrets.is_empty()).then_some(pull_secrets),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(USER),
            run_as_group: Some(USER),
            fs_group: Some(USER),
            seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".to_owned(), localhost_profile: None }),
            ..PodSecurityContext::default()
        }),
        ..PodSpec::default()
    }
}

fn env(name: &str, value: &str) -> EnvVar {
    EnvVar { name: name.to_owned(), value: Some(value.to_owned()), value_from: None }
}

/// An image that follows the operator.
pub fn operators_image() -> Image {
    Image { pull_policy: PullPolicy::IfNotPresent, ..Image::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_the_operators_pair_unless_the_spec_says_otherwise() {
        let pair = "registry.example:5000/leasehold/server:1.2";
        let digest = format!("sha256:{}", "a".repeat(64));
        for (repository, tag, digest, expected) in [
            ("", "", "", pair.to_owned()),
            ("", "1.3", "", "registry.example:5000/leasehold/server:1.3".to_owned()),
            ("mirror/server", "", "", "mirror/server:1.2".to_owned()),
            ("", "1.3", digest.as_str(), format!("registry.example:5000/leasehold/server@{digest}")),
        ] {
            let spec =
                Image { repository: repository.into(), tag: tag.into(), digest: digest.into(), ..Image::default() };
            assert_eq!(image(pair, &spec), expected);
        }
        assert_eq!(image("host:5000/server", &Image::default()), "host:5000/server");
    }
}
