//! Odd secret headers as the released server took them, and our answers held against the released client's schemas.

use ciborium::cbor;
use serde_json::Value as Json;

use super::schema;
use crate::support::{Server, encode, hex, index};

/// A file of vectors.
pub(super) fn vectors(text: &str) -> Json {
    serde_json::from_str(text).expect("JSON")
}

pub(super) fn rows(json: &Json) -> &Vec<Json> {
    json.as_array().expect("rows")
}

pub(super) fn text<'a>(row: &'a Json, key: &str) -> &'a str {
    row[key].as_str().unwrap_or_else(|| panic!("{key} in {row}"))
}

/// Headers that Python takes and we refuse, by what is odd about them (`gbs.md` 4.2 [W]).
const REFUSED: [(&str, &str); 4] = [
    ("upload-secret e-A==", "a character outside the alphabet"),
    ("upload-secret eA==|upload-secret eQ==", "two equal kinds"),
    ("upload-secret eA==, upload-secret eQ==", "joined by a proxy"),
    ("write-enabler eA==", "a write enabler not of 32 bytes"),
];

#[tokio::test]
async fn odd_secrets_are_taken_or_refused_as_recorded() {
    let headers = vectors(include_str!("../../vectors/headers.json"));
    let server = Server::start().await;
    for row in rows(&headers["parsed"]) {
        let values: Vec<&str> = rows(&row["headers"]).iter().map(|value| value.as_str().expect("text")).collect();
        let required: Vec<&str> = rows(&row["required"]).iter().map(|kind| kind.as_str().expect("text")).collect();
        let joined = values.join("|");
        let good = !row["result"].is_null() && !REFUSED.iter().any(|(known, _)| *known == joined);
        // An endpoint that wants exactly these, and what it answers when it has them.
        let (mut request, fine) = match required[..] {
            [] => (server.get("/storage/v1/version"), 200),
            ["upload-secret"] => (server.request("PUT", &format!("/storage/v1/immutable/{}/1/abort", index(1))), 404),
            ["lease-renew-secret"] => {
                let request = server.request("PUT", &format!("/storage/v1/lease/{}", index(1)));
                (request.secrets(&[("lease-cancel-secret", &[2; 32])]), 404)
            }
            ["write-enabler"] => (server.read_test_write(&index(1), b"").without("X-Tahoe-Authorization"), 200),
            _ => panic!("no endpoint wants {required:?}"),
        };
        for value in &values {
            request = request.header("X-Tahoe-Authorization", value);
        }
        let answer = server.ask(&request).await;
        assert_eq!(answer.status, if good { fine } else { 400 }, "{values:?} where {required:?}: {answer:?}");
        let quotes = values
            .iter()
            .filter_map(|value| value.split_once(' '))
            .any(|(_, secret)| secret.trim().len() > 3 && answer.text().contains(secret.trim()));
        assert!(!quotes, "{answer:?} quotes a secret");
    }
}

#[test]
fn our_idea_of_the_response_schemas_is_the_clients() {
    for row in rows(&vectors(include_str!("../../vectors/response-schemas.json"))) {
        let value: ciborium::Value = ciborium::from_reader(&hex(text(row, "hex"))[..]).expect("CBOR");
        let fits = schema::fits(text(row, "schema"), &value);
        assert_eq!(Some(fits), row["accepted_by_client"].as_bool(), "{}: {}", text(row, "schema"), text(row, "label"));
    }
}

#[tokio::test]
async fn our_answers_fit_the_clients_schemas() {
    let server = Server::start().await;
    let (bucket, slot) = (index(1), index(2));
    let read = cbor!({ "test-write-vectors" => {}, "read-vector" => [{ "offset" => 0, "size" => 9 }] });
    let read = encode(&read.expect("plain values"));
    let shares = |kind: &str, index: &str| format!("/storage/v1/{kind}/{index}/shares");
    for (schema, request) in [
        ("get_version", server.get("/storage/v1/version")),
        ("allocate_buckets", server.allocate(&bucket, &[0, 255], 10)),
        ("immutable_write_share_chunk", server.write(&bucket, 0, 3, b"xyz")),
        ("immutable_write_share_chunk", server.write(&bucket, 255, 0, b"0123456789")),
        ("allocate_buckets", server.allocate(&bucket, &[0, 255], 10)),
        ("list_shares", server.get(&shares("immutable", &bucket))),
        ("mutable_read_test_write", server.put(&slot, 3, 0, b"hello")),
        ("mutable_read_test_write", server.read_test_write(&slot, &read)),
        ("list_shares", server.get(&shares("mutable", &slot))),
    ] {
        let answer = server.ask(&request).await;
        assert!(schema::fits(schema, &answer.cbor()), "{schema}: {answer:?}");
    }
}
