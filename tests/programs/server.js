// A node server on the inherited socket: answers its generation and its pid, and drains on TERM.
'use strict';
const http = require('http');

const body = `${process.env.OVERSEER_GENERATION} ${process.pid}\n`;
const server = http.createServer((request, response) => response.end(body));
process.on('SIGTERM', () => server.close());
server.listen({ fd: 3 });
