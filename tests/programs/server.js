// A node server on the inherited socket: answers its generation, bytes received and its pid.
// It drains on TERM; told to be abrupt it has no handler, so that TERM ends it at once.
'use strict';
const http = require('http');

const server = http.createServer((request, response) => {
  let size = 0;
  const answer = () => response.end(`${process.env.OVERSEER_GENERATION} ${size} ${process.pid}\n`);
  request.on('data', (part) => (size += part.length));
  request.on('end', () => (request.url === '/slow' ? setTimeout(answer, 200) : answer()));
});
if (process.argv[2] !== 'abrupt') process.on('SIGTERM', () => server.close());
server.listen({ fd: 3 });
