//! Where a request comes from.

use std::net::IpAddr;

use actix_web::HttpRequest;
use actix_web::http::header::X_FORWARDED_FOR;

/// The client's address: the peer's or, behind trusted proxies, the last address in
/// `X-Forwarded-For` that is not one of theirs. What a client wrote there itself does not count.
pub fn of(request: &HttpRequest, trusted: &[IpAddr]) -> Option<IpAddr> {
    let peer = request.peer_addr().map(|peer| peer.ip().to_canonical())?;
    if !trusted.contains(&peer) {
        return Some(peer);
    }
    let forwarded: Vec<&str> = request
        .headers()
        .get_all(X_FORWARDED_FOR)
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .collect();
    let mut nearest = peer;
    for hop in forwarded.into_iter().rev() {
        let Ok(address) = hop.parse::<IpAddr>().map(|address| address.to_canonical()) else { break };
        nearest = address;
        if !trusted.contains(&address) {
            break;
        }
    }
    Some(nearest)
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    #[test]
    fn only_trusted_proxies_are_believed() {
        let proxy: IpAddr = "10.0.0.1".parse().unwrap();
        let ask = |peer: &str, forwarded: &str| {
            let request = TestRequest::default()
                .peer_addr(format!("{peer}:1").parse().unwrap())
                .insert_header((X_FORWARDED_FOR, forwarded.to_owned()))
                .to_http_request();
            of(&request, &[proxy]).unwrap().to_string()
        };
        assert_eq!(ask("203.0.113.9", "198.51.100.1"), "203.0.113.9");
        assert_eq!(ask("10.0.0.1", "198.51.100.1"), "198.51.100.1");
        assert_eq!(ask("10.0.0.1", "1.1.1.1, 198.51.100.1, 10.0.0.1"), "198.51.100.1");
        assert_eq!(ask("10.0.0.1", "nonsense"), "10.0.0.1");
    }
}
