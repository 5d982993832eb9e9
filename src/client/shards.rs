//! Which server a key belongs to: CRC-32 of the key, as in every other dflockd client.

/// The shard of `key` among `shards`; the order of servers matters.
pub fn shard_of(key: &[u8], shards: usize) -> usize {
    let hash = crc32fast::hash(key) as usize;
    hash.checked_rem(shards).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `zlib.crc32(key) % n` and Go's `crc32.ChecksumIEEE` give.
    #[test]
    fn routes_as_the_other_clients_do() {
        let golden: [(&[u8], u32); 8] = [
            (b"my-key", 0xd6e3_3ac1),
            (b"my-resource", 0x5096_8a0a),
            (b"job", 0xfbd8_e0f8),
            (b"a", 0xe8b7_be43),
            (b"123456789", 0xcbf4_3926),
            ("é".as_bytes(), 0x0e04_8d3e),
            (b"\xff\xfe", 0x88f8_3096),
            (b"cron/billing", 0x6702_7540),
        ];
        for (key, crc) in golden {
            for shards in [1, 2, 3, 5, 7] {
                assert_eq!(shard_of(key, shards), crc as usize % shards, "{key:?} of {shards}");
            }
        }
    }
}
