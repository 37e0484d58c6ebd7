// The server of y-websocket, as its own program sets it up, with orders from the benchmark on standard input.
import http from 'node:http'
import { WebSocketServer } from 'ws'
import { docs, setupWSConnection } from '@y/websocket-server/utils'
import { isRight, orders, say } from './common.mjs'

const server = http.createServer((_, response) => response.end('okay'))
const sockets = new WebSocketServer({ noServer: true })
sockets.on('connection', setupWSConnection)
server.on('upgrade', (request, socket, head) => {
  sockets.handleUpgrade(request, socket, head, ws => sockets.emit('connection', ws, request))
})
server.listen(0, '127.0.0.1', () => say({ event: 'listening', address: `ws://127.0.0.1:${server.address().port}` }))

orders({
  check: ({ name, text }) => say({ event: 'checked', right: isRight(docs.get(name), text) }),
  tidy: () => {
    globalThis.gc()
    say({ event: 'tidy' })
  }
})
