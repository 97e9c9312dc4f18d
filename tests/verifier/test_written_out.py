"""Examples written out from the specifications that we build on, by hand: DSSE, C2SP's notes and checkpoints, RFC 8032.

No library's output stands here: what a specification prints is what ours must read, sign or refuse.
"""

import base64

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from tests.refusal import refused
from tests.world import pair
from verifier.checkpoint import Checkpoint, Proof, note_text, subtree_message
from verifier.encoding import b64, unb64
from verifier.envelope import Envelope, pae
from verifier.signing import KeyPair, PublicPair, verify_ed25519

# DSSE 1.0.0, protocol.md, "Test Vectors" -----------------------------------------------------------------------------

DSSE_TYPE, DSSE_BODY = "http://example.com/HelloWorld", b"hello world"
DSSE_PAE = b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
DSSE_X = 46950820868899156662930047687818585632848591499744589407958293238635476079160
DSSE_Y = 5640078356564379163099075877009565129882514886557779369047442380624545832820
DSSE_SIG = "A3JqsQGtVsJ2O2xqrI5IcnXip5GToJ3F+FnZ+O88SjtR6rDAajabZKciJTfUiHqJPcIAriEGAHTVeCUjW2JIZA=="


def test_the_example_of_dsse_is_signed_over_our_pae() -> None:
    assert pae(DSSE_TYPE, DSSE_BODY) == DSSE_PAE
    raw = base64.b64decode(DSSE_SIG)
    signature = encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))
    key = ec.EllipticCurvePublicNumbers(DSSE_X, DSSE_Y, ec.SECP256R1()).public_key()
    key.verify(signature, pae(DSSE_TYPE, DSSE_BODY), ec.ECDSA(hashes.SHA256()))


def test_the_example_of_dsse_is_refused_by_our_reader_for_its_type_and_form() -> None:
    """A keyid is optional in DSSE, and spaces are allowed; here neither is."""
    written = (
        b'{"payload": "aGVsbG8gd29ybGQ=",\n "payloadType": "http://example.com/HelloWorld",\n "signatures": [{"sig": "'
    )
    with refused("missing-field"):
        Envelope.parse(written + DSSE_SIG.encode() + b'"}]}', "policy")
    kept = b'{"payload":"aGVsbG8gd29ybGQ=","payloadType":"http://example.com/HelloWorld","signatures":[]}'
    with refused("wrong-kind"):
        Envelope.parse(kept, "policy")


def test_the_pae_counts_bytes_of_a_type_outside_ascii() -> None:
    """`é` has one character and two bytes: 19 + 2 + 5."""
    assert pae("application/vnd.café+json", b"{}") == b"DSSEv1 26 application/vnd.caf\xc3\xa9+json 2 {}"
    assert pae("型", "é".encode()) == b"DSSEv1 3 \xe5\x9e\x8b 2 \xc3\xa9"
    assert pae("", b"") == b"DSSEv1 0  0 "


# C2SP signed-note, tlog-checkpoint, tlog-cosignature, tlog-proof: the examples at the head of each page --------------

NOTE = (
    "Ognuno sta solo sul cuor della terra\n"
    "trafitto da un raggio di sole:\n"
    "\n"
    "ed è subito sera.\n"
    "\n"
    "— quasimodo.example/salvatore "
    "NnugSzTjtVAewIS+Z/iJhUPeFDkO/5QQ2i5ddnGITLlC+EhfLW9oJKONrMouFSQU0xMcXxj99ihAQwaqP3ZekRwNtIc=\n"
)
CHECKPOINT_TEXT = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
CHECKPOINT = (
    CHECKPOINT_TEXT + "\n"
    "— example.com/behind-the-sofa "
    "Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n"
)
WITNESS = (
    "— witness.example.com/w1 "
    "jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==\n"
)
PROOF_HASHES = (
    "gSKyXoYZUgZ6jduWYrkDOARinOMGJveXjgMkBTcdPlQ=",
    "B95lDa8R83lS8n0eG+o0buTxRKQTYFi//1U8anccXmA=",
    "EKNzoDWG8LGC0Yp9o+sv3qllpMP9uHQ9B20KNL+Q1zs=",
    "RoopEkOdqkYqMB4MJXrbt/hMjOxsVn0IrWjpz1ZMMes=",
    "AHCioX9nLjsrse6YhjRRmk1WUEirVOLLRoOQ6vfO5vk=",
)


def test_the_example_of_signed_notes_is_a_note_and_no_checkpoint() -> None:
    """Its text has four lines, so it is none of ours; its last empty line divides it from its signature."""
    with refused("bad-checkpoint"):
        Checkpoint.parse(NOTE)
    signature = NOTE.rpartition("\n\n")[2]
    borrowed = Checkpoint.parse(f"{CHECKPOINT_TEXT}\n{signature}")
    (line,) = borrowed.lines
    assert (line.name, line.key_id.hex(), len(line.signature)) == ("quasimodo.example/salvatore", "367ba04b", 64)


def test_the_example_of_checkpoints_reads_as_its_page_says() -> None:
    head = Checkpoint.parse(CHECKPOINT)
    assert (head.origin, head.size) == ("example.com/behind-the-sofa", 20852163)
    assert head.root == unb64("CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=")
    (line,) = head.lines
    assert (line.name, line.key_id.hex(), len(line.signature)) == (head.origin, "033de0ae", 64)
    assert head.text() == note_text(head.origin, head.size, head.root) == CHECKPOINT_TEXT
    with refused("unknown-signer"):
        head.check(pair("gateway").public, closing=False)


def test_the_example_of_cosignatures_has_a_second_line_with_its_time() -> None:
    head = Checkpoint.parse(CHECKPOINT + WITNESS)
    _, witness = head.lines
    assert (witness.name, witness.key_id.hex(), len(witness.signature)) == ("witness.example.com/w1", "8d66cf3f", 72)
    assert int.from_bytes(witness.signature[:8], "big") == 1679315147


def test_the_message_of_a_cosignature_is_the_struct_of_its_page() -> None:
    """`cosigned_message`: label[12], name<1..255>, u64 time, origin<1..255>, u64 start, u64 end, hash[32]."""
    root = bytes.fromhex("0ac5186a91863e8e1d90c808014aa89bf5da8e3ee1d9f07630f0378f68f1ab62")
    message = subtree_message("witness.example.com/w1", 1679315147, "example.com/behind-the-sofa", 20852163, root)
    assert message.hex() == (
        "737562747265652f76310a00"  # "subtree/v1", LF, NUL
        "167769746e6573732e6578616d706c652e636f6d2f7731"
        "00000000641850cb"
        "1b6578616d706c652e636f6d2f626568696e642d7468652d736f6661"
        "000000000000000000000000013e2dc3"
        "0ac5186a91863e8e1d90c808014aa89bf5da8e3ee1d9f07630f0378f68f1ab62"
    )  # fmt: skip


def test_the_example_of_proofs_reads_as_its_page_says() -> None:
    """The page cuts its signatures short, so another page's head stands below; its extra data is cut short too."""
    written = "\n".join(
        ["c2sp.org/tlog-proof@v1", "extra YWdlLXYxLjIuMS1kYXJ3aW4tYXJtNjQudGFyLmd6", "index 73894", *PROOF_HASHES]
    )
    proof = Proof.parse(f"{written}\n\n{CHECKPOINT}")
    assert (proof.extra, proof.index) == (b"age-v1.2.1-darwin-arm64.tar.gz", 73894)
    assert tuple(map(b64, proof.hashes)) == PROOF_HASHES
    assert proof.note == CHECKPOINT
    assert proof.encode() == f"{written}\n\n{CHECKPOINT}"


# RFC 8032 §7.1: secret key, public key, message, signature ----------------------------------------------------------

RFC_8032 = {
    "TEST 1": (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    "TEST 2": (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
    "TEST 3": (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ),
    "TEST 1024": (
        "f5e5767cf153319517630f226876b86c8160cc583bc013744c6bf255f5cc0ee5",
        "278117fc144c72340f67d0f2316e8386ceffbf2b2428c9c51fef7c597f1d426e",
        """
        08b8b2b733424243760fe426a4b54908632110a66c2f6591eabd3345e3e4eb98fa6e264bf09efe12ee50f8f54e9f77b1
        e355f6c50544e23fb1433ddf73be84d879de7c0046dc4996d9e773f4bc9efe5738829adb26c81b37c93a1b270b20329d
        658675fc6ea534e0810a4432826bf58c941efb65d57a338bbd2e26640f89ffbc1a858efcb8550ee3a5e1998bd177e93a
        7363c344fe6b199ee5d02e82d522c4feba15452f80288a821a579116ec6dad2b3b310da903401aa62100ab5d1a36553e
        06203b33890cc9b832f79ef80560ccb9a39ce767967ed628c6ad573cb116dbefefd75499da96bd68a8a97b928a8bbc10
        3b6621fcde2beca1231d206be6cd9ec7aff6f6c94fcd7204ed3455c68c83f4a41da4af2b74ef5c53f1d8ac70bdcb7ed1
        85ce81bd84359d44254d95629e9855a94a7c1958d1f8ada5d0532ed8a5aa3fb2d17ba70eb6248e594e1a2297acbbb39d
        502f1a8c6eb6f1ce22b3de1a1f40cc24554119a831a9aad6079cad88425de6bde1a9187ebb6092cf67bf2b13fd65f270
        88d78b7e883c8759d2c4f5c65adb7553878ad575f9fad878e80a0c9ba63bcbcc2732e69485bbc9c90bfbd62481d9089b
        eccf80cfe2df16a2cf65bd92dd597b0707e0917af48bbb75fed413d238f5555a7a569d80c3414a8d0859dc65a46128ba
        b27af87a71314f318c782b23ebfe808b82b0ce26401d2e22f04d83d1255dc51addd3b75a2b1ae0784504df543af8969b
        e3ea7082ff7fc9888c144da2af58429ec96031dbcad3dad9af0dcbaaaf268cb8fcffead94f3c7ca495e056a9b47acdb7
        51fb73e666c6c655ade8297297d07ad1ba5e43f1bca32301651339e22904cc8c42f58c30c04aafdb038dda0847dd988d
        cda6f3bfd15c4b4c4525004aa06eeff8ca61783aacec57fb3d1f92b0fe2fd1a85f6724517b65e614ad6808d6f6ee34df
        f7310fdc82aebfd904b01e1dc54b2927094b2db68d6f903b68401adebf5a7e08d78ff4ef5d63653a65040cf9bfd4aca7
        984a74d37145986780fc0b16ac451649de6188a7dbdf191f64b5fc5e2ab47b57f7f7276cd419c17a3ca8e1b939ae49e4
        88acba6b965610b5480109c8b17b80e1b7b750dfc7598d5d5011fd2dcc5600a32ef5b52a1ecc820e308aa342721aac09
        43bf6686b64b2579376504ccc493d97e6aed3fb0f9cd71a43dd497f01f17c0e2cb3797aa2a2f256656168e6c496afc5f
        b93246f6b1116398a346f1a641f3b041e989f7914f90cc2c7fff357876e506b50d334ba77c225bc307ba537152f3f161
        0e4eafe595f6d9d90d11faa933a15ef1369546868a7f3a45a96768d40fd9d03412c091c6315cf4fde7cb68606937380d
        b2eaaa707b4c4185c32eddcdd306705e4dc1ffc872eeee475a64dfac86aba41c0618983f8741c5ef68d3a101e8a3b8ca
        c60c905c15fc910840b94c00a0b9d0
        """,
        "0aab4c900501b3e24d7cdf4663326a3a87df5e4843b2cbdb67cbf6e460fec350aa5371b1508f9f4528ecea23c436d94b5e8fcd4f681e30a6ac00a9704a188a03",
    ),
    "TEST SHA(abc)": (
        "833fe62409237b9d62ec77587520911e9a759cec1d19755b7da901b96dca3d42",
        "ec172b93ad5e563bf4932c70e1245034c35467ef2efd4d64ebf819683467e2bf",
        "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
        "dc2a4459e7369633a52b1bf277839a00201009a3efbf3ecb69bea2186c26b58909351fc9ac90b3ecfdfbc7c66431e0303dca179c138ac17ad9bef1177331a704",
    ),
}


@pytest.mark.parametrize("name", RFC_8032)
def test_ed25519_signs_and_verifies_as_rfc_8032_says(name: str) -> None:
    seed, public, message, signature = map(bytes.fromhex, RFC_8032[name])
    made = KeyPair(seed)
    assert made.public == PublicPair(ed25519=b64(public))
    assert made.ed25519(message) == signature
    assert verify_ed25519(public, message, signature)
    assert not verify_ed25519(public, message + b"\0", signature)
