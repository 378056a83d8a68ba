#!/bin/sh
# Makes the certificates of the tests anew: an authority, and a server's that names localhost and 127.0.0.1, valid for a
# hundred years. They protect nothing.
set -eu
cd "$(dirname "$0")"
days=36500
openssl ecparam -name prime256v1 -genkey -noout -out ca.key
openssl req -x509 -new -key ca.key -sha256 -days "$days" -subj "/CN=Tidegate's tests" \
    -addext "basicConstraints=critical,CA:TRUE" -addext "keyUsage=critical,keyCertSign" -out ca.pem
openssl ecparam -name prime256v1 -genkey -noout | openssl pkcs8 -topk8 -nocrypt -out server.key
openssl req -new -key server.key -subj "/CN=localhost" -out server.csr
printf '%s\n' "basicConstraints=critical,CA:FALSE" "keyUsage=critical,digitalSignature" \
    "extendedKeyUsage=serverAuth" "subjectAltName=DNS:localhost,IP:127.0.0.1" > server.ext
openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -sha256 -days "$days" \
    -extfile server.ext -out server.pem
# One that takes the server's place when that is renewed, signed by itself.
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -sha256 -days "$days" -subj "/CN=renewed" \
    -addext "subjectAltName=DNS:localhost,IP:127.0.0.1" -keyout renewed.key -out renewed.pem
# A key that belongs to no certificate, and one that nobody can read without its passphrase.
openssl genpkey -algorithm ed25519 -out other.key
openssl pkcs8 -topk8 -v2 aes-256-cbc -passout pass:tidegate -in server.key -out encrypted.key
rm -f ca.key ca.srl server.csr server.ext
