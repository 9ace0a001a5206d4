//! The OCI image format: a manifest names a configuration and a layer by their hashes, an index names the manifest.

use anyhow::{Context, Result};
use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::HEXLOWER;
use serde_json::{Value, json};

use super::tar::Tar;
use super::{Image, USER};

/// Gives the bytes of an archive that holds `image`, and the digest of its manifest.
pub fn archive(image: &Image, layer: &[u8]) -> Result<(Vec<u8>, String)> {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let config = encoded(&json!({
        // Not the time it was made: that would make it another.
        "created": "1970-01-01T00:00:00Z",
        "architecture": architecture,
        "os": "linux",
        "config": {
            "User": format!("{USER}:{USER}"),
            "Entrypoint": [image.entrypoint],
            "WorkingDir": "/",
            "Labels": image.labels,
        },
        "rootfs": {"type": "layers", "diff_ids": [named(layer)]},
    }));
    let manifest = encoded(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": described("application/vnd.oci.image.config.v1+json", &config),
        "layers": [described("application/vnd.oci.image.layer.v1.tar", layer)],
    }));
    let mut description = described("application/vnd.oci.image.manifest.v1+json", &manifest);
    let (_, tag) = image.reference.rsplit_once(':').context("an image without a tag")?;
    // The first is the format's own, and only a tag; containerd reads the second.
    description["annotations"] =
        json!({"org.opencontainers.image.ref.name": tag, "io.containerd.image.name": image.reference});
    description["platform"] = json!({"architecture": architecture, "os": "linux"});
    let index = encoded(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [description],
    }));
    let mut tar = Tar::default();
    tar.add_folder("blobs/", 0o755)?;
    tar.add_folder("blobs/sha256/", 0o755)?;
    for blob in [&config, &manifest, layer] {
        tar.add(&format!("blobs/sha256/{}", hash(blob)), 0o644, blob)?;
    }
    tar.add("index.json", 0o644, &index)?;
    tar.add("oci-layout", 0o644, &encoded(&json!({"imageLayoutVersion": "1.0.0"})))?;
    Ok((tar.finish(), named(&manifest)))
}

fn described(media_type: &str, blob: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": named(blob), "size": blob.len()})
}

/// Keys come in the order of their names.
fn encoded(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

fn named(blob: &[u8]) -> String {
    format!("sha256:{}", hash(blob))
}

fn hash(blob: &[u8]) -> String {
    HEXLOWER.encode(digest(&SHA256, blob).as_ref())
}
