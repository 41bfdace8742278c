-- The shop's tables with its products, and the roles that log in.
CREATE TABLE products (
  id serial PRIMARY KEY,
  name text NOT NULL,
  cents integer NOT NULL CHECK (cents >= 0),
  stock integer NOT NULL CHECK (stock >= 0)
);
CREATE TABLE orders (
  id serial PRIMARY KEY,
  key text NOT NULL UNIQUE,
  customer text NOT NULL,
  status text NOT NULL DEFAULT 'placed',
  placed timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE items (
  order_id integer NOT NULL REFERENCES orders,
  product_id integer NOT NULL REFERENCES products,
  quantity integer NOT NULL CHECK (quantity > 0),
  PRIMARY KEY (order_id, product_id)
);
-- Orders whose message is not sent yet.
CREATE TABLE outbox (order_id integer PRIMARY KEY REFERENCES orders);

INSERT INTO products (name, cents, stock) VALUES
  ('Signal lamp', 2490, 1000000), ('Points lever', 8900, 1000000), ('Timetable', 450, 1000000), ('Whistle', 1290, 1000000);
INSERT INTO orders (key, customer, status) VALUES ('the first order', 'founder', 'confirmed');
INSERT INTO items VALUES (1, 1, 2);

-- psql runs what is in backquotes.
\set shop_password `cat /run/secrets/shop_password`
\set check_password `cat /run/secrets/check_password`
CREATE ROLE shop LOGIN PASSWORD :'shop_password';
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO shop;
GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO shop;
-- For the checks: it may log in, and nothing else.
CREATE ROLE pointsman LOGIN PASSWORD :'check_password';
