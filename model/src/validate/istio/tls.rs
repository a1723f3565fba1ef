//! TLS settings, towards servers and towards clients.

use super::Report;
use crate::istio::{
    ClientTlsMode, ClientTlsSettings, ServerTlsMode, ServerTlsSettings, TlsProtocol,
};

/// Most certificates of one server: one of each kind of key.
const CERTIFICATES_MAX: usize = 2;

pub fn client(settings: Option<&ClientTlsSettings>, path: &str, report: &mut Report) {
    let Some(tls) = settings else { return };
    let path = format!("{path}.tls");
    let has = |text: &str| !text.is_empty();
    if tls.insecure_skip_verify == Some(true) {
        let names = !tls.subject_alt_names.is_empty();
        let field = format!("{path}.insecureSkipVerify");
        match tls.mode {
            ClientTlsMode::Simple
                if has(&tls.ca_certificates) || has(&tls.credential_name) || names =>
            {
                report.forbidden(field, "cannot specify CaCertificates or CredentialName or SubjectAltNames when InsecureSkipVerify is set true");
            }
            ClientTlsMode::Mutual if has(&tls.ca_certificates) || names => {
                report.forbidden(field, "cannot specify CaCertificates or SubjectAltNames when InsecureSkipVerify is set true");
            }
            _ => {}
        }
    }
    let by_secret = has(&tls.credential_name)
        && matches!(tls.mode, ClientTlsMode::Simple | ClientTlsMode::Mutual);
    if by_secret {
        if [
            &tls.client_certificate,
            &tls.ca_certificates,
            &tls.private_key,
            &tls.ca_crl,
        ]
        .into_iter()
        .any(|text| has(text))
        {
            let detail = "cannot specify client certificates or CA certificate or CA CRL If credentialName is set";
            report.forbidden(format!("{path}.credentialName"), detail);
        }
        return;
    }
    if tls.mode == ClientTlsMode::Mutual {
        if !has(&tls.client_certificate) {
            let detail = "client certificate required for mutual tls";
            report.required(format!("{path}.clientCertificate"), detail);
        }
        if !has(&tls.private_key) {
            let detail = "private key required for mutual tls";
            report.required(format!("{path}.privateKey"), detail);
        }
    }
}

pub fn server(tls: &ServerTlsSettings, path: &str, report: &mut Report) {
    let has = |text: &str| !text.is_empty();
    if matches!(
        tls.min_protocol_version,
        TlsProtocol::V1_0 | TlsProtocol::V1_1
    ) && tls.cipher_suites.is_empty()
    {
        report.warn(
            &format!("{path}.minProtocolVersion"),
            "TLS version below TLSV1_2 require setting compatible ciphers as by default they no longer include compatible ciphers.",
        );
    }
    if tls.mode == ServerTlsMode::IstioMutual {
        for (field, given, what) in [
            (
                "serverCertificate",
                has(&tls.server_certificate),
                "server certificate",
            ),
            ("privateKey", has(&tls.private_key), "private key"),
            ("caCertificates", has(&tls.ca_certificates), "CA bundle"),
            (
                "tlsCertificates",
                !tls.tls_certificates.is_empty(),
                "tlsCertificates",
            ),
            (
                "credentialName",
                has(&tls.credential_name),
                "credentialName",
            ),
            (
                "credentialNames",
                !tls.credential_names.is_empty(),
                "credentialNames",
            ),
        ] {
            if given {
                let detail = format!("ISTIO_MUTUAL TLS cannot have associated {what}");
                report.forbidden(format!("{path}.{field}"), detail);
            }
        }
        return;
    }
    let sources = [
        has(&tls.server_certificate) && has(&tls.private_key),
        has(&tls.credential_name),
        !tls.credential_names.is_empty(),
        !tls.tls_certificates.is_empty(),
    ];
    if passes_through(tls.mode)
        && (sources.contains(&true)
            || has(&tls.ca_crl)
            || has(&tls.server_certificate)
            || has(&tls.private_key)
            || has(&tls.ca_certificates))
    {
        let mode = if tls.mode == ServerTlsMode::Passthrough {
            "PASSTHROUGH"
        } else {
            "AUTO_PASSTHROUGH"
        };
        report.warn(
            path,
            format!("{mode} mode does not use certificates, they will be ignored"),
        );
    }
    if sources.into_iter().filter(|given| *given).count() > 1 {
        report.forbidden(path, "only one of credential_name, credential_names, server_certificate/private_key, tls_certificates should be specified");
    }
    if passes_through(tls.mode) || has(&tls.credential_name) || !tls.credential_names.is_empty() {
        return;
    }
    certificates(tls, path, report);
    if has(&tls.ca_crl) && tls.mode == ServerTlsMode::Simple {
        report.forbidden(
            format!("{path}.caCrl"),
            "CRL is not supported with SIMPLE TLS",
        );
    }
}

fn passes_through(mode: ServerTlsMode) -> bool {
    matches!(
        mode,
        ServerTlsMode::Passthrough | ServerTlsMode::AutoPassthrough
    )
}

/// Files, where no Secret is named.
fn certificates(tls: &ServerTlsSettings, path: &str, report: &mut Report) {
    let prefix = if tls.mode == ServerTlsMode::Simple {
        "SIMPLE TLS"
    } else {
        "MUTUAL TLS"
    };
    if tls.mode != ServerTlsMode::Simple && tls.ca_certificates.is_empty() {
        let detail = format!("{prefix} requires a client CA bundle");
        report.required(format!("{path}.caCertificates"), detail);
    }
    if tls.tls_certificates.len() > CERTIFICATES_MAX {
        let detail = format!("{prefix} can support up to 2 server certificates");
        report.warn(&format!("{path}.tlsCertificates"), detail);
    }
    let mut pairs: Vec<(String, &str, &str)> = tls
        .tls_certificates
        .iter()
        .enumerate()
        .map(|(index, each)| {
            let path = super::at(path, "tlsCertificates", index);
            (
                path,
                each.server_certificate.as_str(),
                each.private_key.as_str(),
            )
        })
        .collect();
    if pairs.is_empty() {
        pairs.push((path.to_owned(), &tls.server_certificate, &tls.private_key));
    }
    for (path, certificate, key) in pairs {
        if certificate.is_empty() {
            let detail = format!("{prefix} requires a server certificate");
            report.required(format!("{path}.serverCertificate"), detail);
        }
        if key.is_empty() {
            let detail = format!("{prefix} requires a private key");
            report.required(format!("{path}.privateKey"), detail);
        }
    }
}
