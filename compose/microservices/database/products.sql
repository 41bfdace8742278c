CREATE TABLE products (id serial PRIMARY KEY, name text NOT NULL, cents integer NOT NULL CHECK (cents >= 0));
INSERT INTO products (name, cents) VALUES ('Signal lamp', 2490), ('Points lever', 8900), ('Timetable', 450), ('Whistle', 1290);
CREATE ROLE service LOGIN PASSWORD 'service';
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO service;
