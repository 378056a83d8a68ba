// The certificate of the tests' nodes over TLS, and who is believed to have signed it.

import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

/** The path of one of the test certificates' files. */
export const certificate = (name) => fileURLToPath(new URL(`../../certificates/${name}`, import.meta.url));

/** The setting `server.tls` of a node. */
export const TLS = { cert: certificate('server.pem'), key: certificate('server.key') };

/** The option that makes a client trust it. */
export const TRUSTING = { ca: readFileSync(certificate('ca.pem')) };
