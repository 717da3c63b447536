// A node server that binds for itself, and has no handler: TERM ends it at once.
'use strict';
const http = require('http');

const server = http.createServer((request, response) =>
  response.end(`${process.env.OVERSEER_GENERATION} 0 ${process.pid}\n`));
server.listen(Number(process.argv[2]), process.argv[3]);
