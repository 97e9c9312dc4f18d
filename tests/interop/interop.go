// Interop holds what tally exports against Go's own implementation of signed notes and transparency logs, and makes
// notes and proofs that tally must accept (specs/exports.md §3).
//
//	interop check DIR   open each <lane>.checkpoint with <lane>.vkey, check each <lane>-<seq>.tlog-proof
//	interop make DIR    sign notes, prove records and extensions of trees of 1 to 40 records
//
// It needs nothing but the standard library and golang.org/x/mod.
package main

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const (
	proofHeader = "c2sp.org/tlog-proof@v1"
	largest     = 40
	origin      = "go.example/tally/job-1/lane-1"
)

func main() {
	if len(os.Args) != 3 {
		fail("usage: interop check|make DIR")
	}
	switch os.Args[1] {
	case "check":
		check(os.Args[2])
	case "make":
		makeAll(os.Args[2])
	default:
		fail("usage: interop check|make DIR")
	}
}

// check opens everything in a folder; what does not hold, and what holds with a changed bit, ends the program.
func check(dir string) {
	checkpoints, proofs, refused := 0, 0, 0
	keys, err := filepath.Glob(filepath.Join(dir, "*.vkey"))
	must(err)
	for _, path := range keys {
		lane := strings.TrimSuffix(path, ".vkey")
		if strings.HasSuffix(lane, ".ml-dsa-44") {
			continue // of a type that this package does not know
		}
		verifier, err := note.NewVerifier(strings.TrimSpace(string(read(path))))
		must(err)
		known := note.VerifierList(verifier)
		signed := read(lane + ".checkpoint")
		opened, err := note.Open(signed, known)
		must(err)
		size, root := head(opened.Text, verifier.Name())
		checkpoints++
		changed := bytes.Replace(signed, []byte("\n"), []byte("x\n"), 1)
		if _, err := note.Open(changed, known); err == nil {
			fail("%s: another origin under the same signature is accepted", lane)
		}
		refused++

		paths, err := filepath.Glob(lane + "-*.tlog-proof")
		must(err)
		for _, path := range paths {
			leaf, index, proof, checkpoint := parse(string(read(path)))
			if checkpoint != string(signed) {
				fail("%s: the proof has another checkpoint", path)
			}
			must(tlog.CheckRecord(proof, size, root, index, tlog.RecordHash(leaf)))
			proofs++
			leaf[0] ^= 1
			if tlog.CheckRecord(proof, size, root, index, tlog.RecordHash(leaf)) == nil {
				fail("%s: another receipt is accepted at the same place", path)
			}
			refused++
		}
	}
	fmt.Println(checkpoints, proofs, refused)
}

// head reads a checkpoint's three lines, of which note.Open has checked the signature.
func head(text, name string) (int64, tlog.Hash) {
	lines := strings.Split(text, "\n")
	if len(lines) != 4 || lines[0] != name || lines[3] != "" {
		fail("not a checkpoint of %s: %q", name, text)
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	must(err)
	root, err := tlog.ParseHash(lines[2])
	must(err)
	return size, root
}

// parse reads a tlog-proof whose extra line is the leaf.
func parse(text string) (leaf []byte, index int64, proof tlog.RecordProof, checkpoint string) {
	gap := strings.Index(text, "\n\n")
	if gap < 0 {
		fail("not a tlog-proof: %q", text)
	}
	lines := strings.Split(text[:gap], "\n")
	if len(lines) < 3 || lines[0] != proofHeader {
		fail("not a tlog-proof: %q", text)
	}
	leaf, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(lines[1], "extra "))
	must(err)
	index, err = strconv.ParseInt(strings.TrimPrefix(lines[2], "index "), 10, 64)
	must(err)
	for _, line := range lines[3:] {
		hash, err := tlog.ParseHash(line)
		must(err)
		proof = append(proof, hash)
	}
	return leaf, index, proof, text[gap+2:]
}

// makeAll writes, for each size: a proof of every record; and for each smaller size: a proof that the tree extends it.
func makeAll(dir string) {
	secret, public, err := note.GenerateKey(rand.Reader, origin)
	must(err)
	signer, err := note.NewSigner(secret)
	must(err)
	write(dir, "go.vkey", public+"\n")

	var stored []tlog.Hash
	reader := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		found := make([]tlog.Hash, len(indexes))
		for i, each := range indexes {
			found[i] = stored[each]
		}
		return found, nil
	})
	for size := int64(1); size <= largest; size++ {
		added, err := tlog.StoredHashes(size-1, record(size-1), reader)
		must(err)
		stored = append(stored, added...)
		root, err := tlog.TreeHash(size, reader)
		must(err)
		signed, err := note.Sign(&note.Note{Text: fmt.Sprintf("%s\n%d\n%s\n", origin, size, root)}, signer)
		must(err)
		write(dir, fmt.Sprintf("%d.checkpoint", size), string(signed))
		for index := int64(0); index < size; index++ {
			proof, err := tlog.ProveRecord(size, index, reader)
			must(err)
			text := fmt.Sprintf("%s\nextra %s\nindex %d\n", proofHeader, base64.StdEncoding.EncodeToString(record(index)), index)
			write(dir, fmt.Sprintf("%d-%d.tlog-proof", size, index), text+lines(proof)+"\n"+string(signed))
		}
		for first := int64(1); first <= size; first++ {
			proof, err := tlog.ProveTree(size, first, reader)
			must(err)
			write(dir, fmt.Sprintf("%d-%d.extension", first, size), lines(tlog.RecordProof(proof)))
		}
	}
}

func record(index int64) []byte { return []byte(fmt.Sprintf(`{"kind":"note","seq":%d}`, index)) }

func lines(hashes tlog.RecordProof) string {
	text := ""
	for _, each := range hashes {
		text += each.String() + "\n"
	}
	return text
}

func read(path string) []byte {
	data, err := os.ReadFile(path)
	must(err)
	return data
}

func write(dir, name, text string) { must(os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600)) }

func must(err error) {
	if err != nil {
		fail("%v", err)
	}
}

func fail(format string, arguments ...interface{}) {
	fmt.Fprintf(os.Stderr, "interop: "+format+"\n", arguments...)
	os.Exit(1)
}
