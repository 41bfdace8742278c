//! The hash that nftables calls `jhash`.

/// The hash of `key` as the Linux kernel computes it (`include/linux/jhash.h`): `hashlittle` of Jenkins, "lookup3.c", 2006,
/// with its own initial value. It reads words in the byte order of the machine.
pub(super) fn jhash(key: &[u8], seed: u32) -> u32 {
    /// `JHASH_INITVAL`.
    const INITIAL: u32 = 0xdead_beef;
    let start = INITIAL.wrapping_add(key.len() as u32).wrapping_add(seed);
    let [mut a, mut b, mut c] = [start; 3];
    if key.is_empty() {
        return c;
    }
    // The last block has one to twelve bytes, as if zeros followed.
    let (blocks, last) = key.split_at((key.len() - 1) / 12 * 12);
    for block in blocks.chunks_exact(12) {
        add([&mut a, &mut b, &mut c], block, u32::from_ne_bytes);
        mix(&mut a, &mut b, &mut c);
    }
    // The kernel adds these byte by byte, the first one as the lowest.
    add([&mut a, &mut b, &mut c], last, u32::from_le_bytes);
    finish(&mut a, &mut b, &mut c);
    c
}

fn add(state: [&mut u32; 3], block: &[u8], word: fn([u8; 4]) -> u32) {
    for (value, bytes) in state.into_iter().zip(block.chunks(4)) {
        let mut padded = [0; 4];
        padded[..bytes.len()].copy_from_slice(bytes);
        *value = value.wrapping_add(word(padded));
    }
}

fn mix(a: &mut u32, b: &mut u32, c: &mut u32) {
    let step = |x: &mut u32, y: &mut u32, z: &mut u32, bits| {
        *x = x.wrapping_sub(*z) ^ z.rotate_left(bits);
        *z = z.wrapping_add(*y);
    };
    step(a, b, c, 4);
    step(b, c, a, 6);
    step(c, a, b, 8);
    step(a, b, c, 16);
    step(b, c, a, 19);
    step(c, a, b, 4);
}

fn finish(a: &mut u32, b: &mut u32, c: &mut u32) {
    let step = |x: &mut u32, y: &u32, bits| *x = (*x ^ *y).wrapping_sub(y.rotate_left(bits));
    step(c, b, 14);
    step(a, c, 11);
    step(b, a, 25);
    step(c, b, 16);
    step(a, c, 4);
    step(b, a, 14);
    step(c, b, 24);
}
