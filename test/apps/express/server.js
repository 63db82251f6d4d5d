'use strict';
// An Express service that nobody instrumented.
//
// GET /call?id=ID  calls $DOWNSTREAM?id=ID and returns what it answered.
// GET /leaf?id=ID  answers with the raw header lines it received.
//
// KEEPALIVE=1 calls through a keep-alive agent, otherwise every call opens a
// connection.
const http = require('http');
const express = require('express');

const agent = new http.Agent({ keepAlive: process.env.KEEPALIVE === '1' });
const app = express();

app.get('/ready', (req, res) => res.send('ok'));

app.get('/leaf', (req, res) => {
  const headers = [];
  for (let i = 0; i < req.rawHeaders.length; i += 2) {
    headers.push([req.rawHeaders[i], req.rawHeaders[i + 1]]);
  }
  res.json({ id: req.query.id, headers });
});

app.get('/call', (req, res) => {
  const url = `${process.env.DOWNSTREAM}?id=${encodeURIComponent(req.query.id)}`;
  http.get(url, { agent }, (answer) => {
    const parts = [];
    answer.on('data', (part) => parts.push(part));
    answer.on('end', () => {
      res.status(answer.statusCode).type('json').send(Buffer.concat(parts));
    });
  }).on('error', (err) => res.status(502).send(err.message));
});

app.listen(Number(process.env.PORT), '127.0.0.1');
