// Clients of y-websocket, with orders from the benchmark on standard input: as `src/client.rs`.
import { readFileSync } from 'node:fs'
import { setImmediate, setTimeout } from 'node:timers/promises'
import WebSocket from 'ws'
import { WebsocketProvider } from 'y-websocket'
import * as Y from 'yjs'
import { isRight, now, orders, say } from './common.mjs'

// How many edits are made before the event loop may do other things, and how much may wait for the socket meanwhile, in bytes.
const BURST = 64
const MOST_BUFFERED = 1 << 18

const open = (address, name, seen) => new Promise(resolve => {
  const doc = new Y.Doc()
  const options = { WebSocketPolyfill: WebSocket, disableBc: true }
  const provider = new WebsocketProvider(address, name, doc, options)
  const opened = { doc, provider, text: doc.getText('text') }
  provider.once('sync', () => {
    if (seen !== undefined) doc.on('update', (_, origin) => origin === provider && seen())
    resolve(opened)
  })
})

const apply = ({ doc, text }, patches) => doc.transact(() => {
  for (const [position, deleted, inserted] of patches) {
    if (deleted > 0) text.delete(position, deleted)
    if (inserted !== '') text.insert(position, inserted)
  }
})

const all = []

orders({
  // Opens documents by name, each so many times.
  open: async ({ address, names, times, edits, timed }) => {
    for (const name of names) {
      for (let i = 0; i < times; i++) {
        const at = []
        let seen = 0
        const watch = () => {
          seen += 1
          if (timed) at.push(now())
          if (seen === edits) say({ event: 'seen', at: now(), times: at })
        }
        all.push(await open(address, name, watch))
      }
    }
    say({ event: 'open' })
  },
  // Makes the edits of a file in each document: at full speed, or so many a second.
  type: async ({ edits, count, rate }) => {
    const list = JSON.parse(readFileSync(edits, 'utf8')).slice(0, count)
    const start = now()
    const times = []
    for (const document of all) {
      for (const [i, patches] of list.entries()) {
        if (rate > 0) {
          const due = start + i * 1e9 / rate
          while (now() < due) await setTimeout(Math.max(0, Math.floor((due - now()) / 1e6)))
          times.push(now())
        } else if (i % BURST === BURST - 1) {
          do await setImmediate(); while (document.provider.ws.bufferedAmount > MOST_BUFFERED)
        }
        apply(document, patches)
      }
    }
    say({ event: 'typed', start, times })
  },
  // Opens a document anew, and closes it: how long that takes until the text is there.
  join: async ({ address, name, text }) => {
    const start = now()
    const opened = await open(address, name)
    const length = opened.text.length
    const took = now() - start
    say({ event: 'joined', took, length, right: isRight(opened.doc, text) })
    opened.provider.destroy()
    opened.doc.destroy()
  },
  check: ({ text }) => say({ event: 'checked', right: all.every(({ doc }) => isRight(doc, text)) }),
  tidy: () => {
    globalThis.gc()
    say({ event: 'tidy' })
  }
})
